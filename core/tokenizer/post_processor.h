#pragma once
/// Post-processors of tokenizer.json, as far as they concern ids: the special tokens around a sequence.
#include <cstdint>
#include <vector>

#include "core/tokenizer/json_members.h"

namespace autoglm::tokenizer {

class PostProcessor {
 public:
  /// Reads "post_processor" (null adds nothing). kBadInput names what is unknown or broken.
  static Result<PostProcessor> from_json(const Json* spec);

  /// Puts `prefix` before and `suffix` after every sequence.
  static PostProcessor with_affixes(std::vector<int32_t> prefix, std::vector<int32_t> suffix);

  /// `ids` with the special tokens added.
  std::vector<int32_t> apply(std::vector<int32_t> ids) const;

 private:
  struct Part {
    bool sequence = false;  // the sequence itself, else the ids
    std::vector<int32_t> ids;
  };
  Status add(const Json& spec, int depth);
  Status add_template(const Json& spec);
  Status add_pair(const Json& spec);

  std::vector<Part> parts_;  // empty: the sequence alone
};

}  // namespace autoglm::tokenizer
