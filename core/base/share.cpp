#include "core/base/share.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <string>

namespace autoglm {

Result<double> parse_share(std::string_view text) {
  double number = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  std::string_view unit(rest, static_cast<size_t>(text.data() + text.size() - rest));
  while (!unit.empty() && unit.front() == ' ') unit.remove_prefix(1);
  const double share = unit == "%" ? number / 100 : number;
  const bool forgotten_percent = unit.empty() && number >= 1;
  if (error != std::errc() || (!unit.empty() && unit != "%") || forgotten_percent || !std::isfinite(number) ||
      share < 0 || share > 1) {
    return invalid_argument(fmt::format("'{}' is no share between 0 and 1; write for example 3% or 0.03", text));
  }
  return share;
}

}  // namespace autoglm
