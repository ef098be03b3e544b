#pragma once
/// Strata of calibration text, and how a number of samples is spread over them.
#include <cstdint>
#include <string>
#include <vector>

namespace autoglm::eval {

struct Stratum {
  double weight = 0;    ///< above 0: its claim
  int64_t samples = 0;  ///< that it can give
};

/// The stratum of each of `count` samples in turn, fewer where the strata have fewer in all. Each turn goes to the
/// stratum whose weight divided by what it has got is largest (Adams' method of apportionment), the first among equals:
/// every stratum gets one before any gets two, then shares come close to the weights, and fewer samples are the
/// beginning of more.
std::vector<size_t> spread(const std::vector<Stratum>& strata, int64_t count);

/// Lengths that count as alike: between two powers of two, those of the full `longest` apart. Rises with `tokens`.
int length_class(int64_t tokens, int64_t longest);

/// What its class holds: "64-127", or "512" of the longest.
std::string length_range(int64_t tokens, int64_t longest);

}  // namespace autoglm::eval
