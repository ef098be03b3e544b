/// No parser: a planted defect by which the test fuzz/driver sees that the mutation loop finds one.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

/// Trusts a length byte, as a careless reader does.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size >= 2 && data[0] == 'L' && data[1] > size) std::abort();
  return 0;
}
