/// The one place that knows which instruction sets there are and which this processor has.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdlib>
#include <iterator>
#include <string>

#include "core/format/display.h"
#include "runtime/kernels/avx2/avx2.h"
#include "runtime/kernels/avx512/avx512.h"
#include "runtime/kernels/dotprod/dotprod.h"
#include "runtime/kernels/generic/generic.h"
#include "runtime/kernels/kernels.h"
#include "runtime/kernels/neon/neon.h"

#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace autoglm::kernels {
namespace {

/// A set of this build, the best first.
struct Isa {
  bool (*is_supported)();
  void (*fill_table)(Kernels& table);
};
constexpr Isa kIsas[] = {
#if defined(__x86_64__)
    {[] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
              __builtin_cpu_supports("avx512vnni");
     },
     avx512::fill_table},
    // F16C came before AVX2 on every processor; not every compiler can ask for it.
    {[] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }, avx2::fill_table},
#elif defined(__aarch64__)
    {[] { return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0; }, dotprod::fill_table},
    {[] { return true; }, neon::fill_table},
#endif
    {[] { return true; }, [](Kernels&) {}},
};

std::vector<std::string_view> names_of(const std::vector<const Kernels*>& tables) {
  std::vector<std::string_view> names;
  for (const Kernels* table : tables) names.emplace_back(table->name);
  return names;
}

}  // namespace

const std::vector<const Kernels*>& available() {
  static Kernels filled[std::size(kIsas)];
  static const std::vector<const Kernels*> tables = [] {
    std::vector<const Kernels*> found;
    for (const Isa& isa : kIsas) {
      if (!isa.is_supported()) continue;
      Kernels& table = filled[found.size()];
      table = generic::table();
      isa.fill_table(table);
      found.push_back(&table);
    }
    return found;
  }();
  return tables;
}

Result<const Kernels*> select(std::string_view name) {
  if (name.empty()) return available().front();
  for (const Kernels* table : available()) {
    if (table->name == name) return table;
  }
  return invalid_argument(fmt::format("instruction set {} is unknown or not of this processor: choose one of {}",
                                      format::display(name), fmt::join(names_of(available()), ", ")));
}

Result<const Kernels*> select() {
  const char* wanted = std::getenv("AUTOGLM_ISA");
  auto chosen = select(wanted == nullptr ? "" : wanted);
  if (!chosen.ok()) return chosen.status().with_context("AUTOGLM_ISA");
  return chosen;
}

}  // namespace autoglm::kernels
