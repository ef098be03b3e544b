#include "core/tokenizer/post_processor.h"

#include <fmt/format.h>

#include "core/base/suggest.h"
#include "core/format/display.h"

namespace autoglm::tokenizer {
namespace {

constexpr size_t kMaxParts = 64;  // each may be the whole sequence once more

}  // namespace

Result<PostProcessor> PostProcessor::from_json(const Json* spec) {
  PostProcessor processor;
  if (spec) {
    if (Status status = processor.add(*spec, 0); !status.ok()) return status.with_context("post_processor");
  }
  return processor;
}

PostProcessor PostProcessor::with_affixes(std::vector<int32_t> prefix, std::vector<int32_t> suffix) {
  PostProcessor processor;
  processor.parts_ = {{false, std::move(prefix)}, {true, {}}, {false, std::move(suffix)}};
  return processor;
}

std::vector<int32_t> PostProcessor::apply(std::vector<int32_t> ids) const {
  if (parts_.empty()) return ids;
  std::vector<int32_t> out;
  for (const Part& part : parts_) {
    const std::vector<int32_t>& added = part.sequence ? ids : part.ids;
    out.insert(out.end(), added.begin(), added.end());
  }
  return out;
}

Status PostProcessor::add(const Json& spec, int depth) {
  if (depth == kMaxSequenceDepth) return bad_input("sequences nest deeper than 16 levels");
  AUTOGLM_ASSIGN_OR_RETURN(const std::string type, component_type(spec));
  if (type == "ByteLevel") return ok_status();  // trims offsets, which nobody asks for here
  if (type == "Sequence") {
    AUTOGLM_ASSIGN_OR_RETURN(const Json* parts, array_member(spec, "processors"));
    for (const Json& part : *parts) AUTOGLM_RETURN_IF_ERROR(add(part, depth + 1));
    return ok_status();
  }
  static const std::vector<std::string> known = {"Sequence", "ByteLevel", "TemplateProcessing", "BertProcessing",
                                                 "RobertaProcessing"};
  const bool is_template = type == "TemplateProcessing";
  if (!is_template && type != "BertProcessing" && type != "RobertaProcessing") {
    return bad_input(unknown_word("type", type, known));
  }
  if (!parts_.empty()) return bad_input("more than one processor adds tokens");
  return (is_template ? add_template(spec) : add_pair(spec)).with_context(type);
}

Status PostProcessor::add_template(const Json& spec) {
  AUTOGLM_ASSIGN_OR_RETURN(const Json* single, array_member(spec, "single"));
  const Json* special_tokens = find_member(spec, "special_tokens");
  for (const Json& piece : *single) {
    if (const Json* sequence = find_member(piece, "Sequence")) {
      AUTOGLM_ASSIGN_OR_RETURN(const std::string id, string_member(*sequence, "id"));
      if (id != "A") return bad_input("'single' asks for a second sequence");
      parts_.push_back({true, {}});
      continue;
    }
    const Json* special = find_member(piece, "SpecialToken");
    if (!special) return bad_input("'single' has a piece that is neither Sequence nor SpecialToken");
    AUTOGLM_ASSIGN_OR_RETURN(const std::string name, string_member(*special, "id"));
    const Json* token = special_tokens ? find_member(*special_tokens, name) : nullptr;
    if (!token) return bad_input(fmt::format("'special_tokens' lacks {}", format::display(name, 40)));
    AUTOGLM_ASSIGN_OR_RETURN(const Json* ids, array_member(*token, "ids"));
    Part part;
    for (const Json& value : *ids) {
      AUTOGLM_ASSIGN_OR_RETURN(const int32_t id, token_id(value));
      part.ids.push_back(id);
    }
    parts_.push_back(std::move(part));
  }
  if (parts_.empty()) return bad_input("'single' is empty");
  if (parts_.size() > kMaxParts) return bad_input("'single' has more than 64 pieces");
  return ok_status();
}

// "cls" and "sep" are [text, id].
Status PostProcessor::add_pair(const Json& spec) {
  for (const std::string_view name : {"cls", "sep"}) {
    AUTOGLM_ASSIGN_OR_RETURN(const Json* pair, array_member(spec, name));
    if (pair->size() != 2) return bad_input(fmt::format("'{}' must be [text, id]", name));
    AUTOGLM_ASSIGN_OR_RETURN(const int32_t id, token_id((*pair)[1]));
    parts_.push_back({false, {id}});
    if (name == "cls") parts_.push_back({true, {}});
  }
  return ok_status();
}

}  // namespace autoglm::tokenizer
