#pragma once
/// A small JSON file of a model folder.
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/base/status.h"
#include "core/format/display.h"
#include "core/format/file.h"
#include "core/format/json.h"

namespace autoglm::exports {

/// kBadInput names the file: it cannot be read, or holds no JSON, or something else than an object. `Json`: as of
/// format::parse_json.
template <typename Json>
Result<Json> read_json_object(const std::filesystem::path& path) {
  AUTOGLM_ASSIGN_OR_RETURN(const std::string text, format::read_text_file(path));
  auto json = format::parse_json<Json>(text);
  if (!json.ok()) return json.status().with_context(format::display_path(path));
  if (!json->is_object()) return bad_input(format::display_path(path) + ": is no JSON object");
  return json;
}

}  // namespace autoglm::exports
