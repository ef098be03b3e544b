#pragma once
/// StopFilter: text as it is generated, up to the first stop string.
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace autoglm::engine {

/// Holds back the end of the text while it may be the beginning of a stop string, so that what comes out is never taken
/// back. What push() and finish() return, put together, is the text before the first place where a stop string ends,
/// less that string (of several that end there, the one that begins first). One per sequence; not thread-safe.
class StopFilter {
 public:
  /// Empty strings stop nothing.
  explicit StopFilter(std::vector<std::string> stops = {});

  std::string push(std::string_view text);  ///< text that became certain, possibly none
  std::string finish();                     ///< what is left at the end of the sequence
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  size_t longest_ = 0;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace autoglm::engine
