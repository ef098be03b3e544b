#pragma once
/// Which documents say what an earlier one said already.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace autoglm::eval {

/// Takes documents one after the other. One is a duplicate of an earlier one that was kept when their words are the
/// same, case and spacing aside, or when they share most of their shingles, runs of four words (A. Broder 1997, "On
/// the resemblance and containment of documents", section 2). A character of Chinese or Japanese, and a mark, count as
/// a word.
///
/// Candidates are found by min-wise hashes in bands: a document with a resemblance of 0.85 is found with a probability
/// of over 0.999. What is found is compared shingle by shingle, so that nothing else is ever taken for a duplicate.
class Duplicates {
 public:
  static constexpr double kResemblance = 0.85;  ///< shingles in common, of those in either: above it is a duplicate

  enum class Kind { kNew, kSame, kNear };

  /// Keeps what is new to compare with: eight bytes for each of its words.
  Kind add(std::string_view document);

 private:
  std::unordered_set<uint64_t> same_;                    // all words of a document
  std::unordered_map<uint64_t, size_t> bands_;           // of kept ones, to the first that has it
  std::vector<std::vector<uint64_t>> shingles_of_kept_;  // sorted
};

}  // namespace autoglm::eval
