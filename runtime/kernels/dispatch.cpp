/// The one place that knows which instruction sets there are and which this processor has.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdlib>
#include <iterator>
#include <string>

#include "core/format/display.h"
#include "runtime/kernels/amx/amx.h"
#include "runtime/kernels/avx2/avx2.h"
#include "runtime/kernels/avx512/avx512.h"
#include "runtime/kernels/avx512_bf16/avx512_bf16.h"
#include "runtime/kernels/dotprod/dotprod.h"
#include "runtime/kernels/generic/generic.h"
#include "runtime/kernels/kernels.h"
#include "runtime/kernels/neon/neon.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace autoglm::kernels {
namespace {

#if defined(__x86_64__)
bool has_avx512_vnni() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}

bool has_avx512_bf16() { return has_avx512_vnni() && __builtin_cpu_supports("avx512bf16"); }

/// Whether there are tiles of INT8 and BF16, and Linux (5.16 and later) lets this process use them.
bool has_amx() {
  constexpr unsigned kBf16 = 1U << 22, kTile = 1U << 24, kInt8 = 1U << 25, kAll = kBf16 | kTile | kInt8;
  constexpr long kRequestState = 0x1023, kTileState = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (edx & kAll) == kAll &&
         syscall(SYS_arch_prctl, kRequestState, kTileState) == 0;
}
#endif

/// A set of this build, the best first.
struct Isa {
  bool (*is_supported)();
  void (*fill_table)(Kernels& table);
};
constexpr Isa kIsas[] = {
#if defined(__x86_64__)
    {[] { return has_avx512_bf16() && has_amx(); }, amx::fill_table},
    {has_avx512_bf16, avx512_bf16::fill_table},
    {has_avx512_vnni, avx512::fill_table},
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
