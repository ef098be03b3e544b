// A program outside the project that uses the installed public headers.
#include <autoglm/inspect.h>
#include <autoglm/version.h>

#include <iostream>

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const auto outcome = autoglm::inspect(argv[1]);
  if (!outcome.ok()) {
    std::cerr << outcome.status().message() << "\n";
    return 1;
  }
  std::cout << outcome.value().summary << "\n";
  return autoglm::inspect("/nonexistent").ok() ? 1 : 0;
}
