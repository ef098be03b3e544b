#include "api/model_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <regex>

#include "core/format/display.h"

namespace autoglm::api {
namespace {

namespace fs = std::filesystem;

bool looks_like_id(const std::string& name) {
  static const std::regex pattern(R"([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}(@[\w.-]+(/[\w.-]+)*)?)");
  return name.size() < 300 && std::regex_match(name, pattern) && name.find("..") == std::string::npos;
}

}  // namespace

Result<fs::path> find_model(const std::string& model, const CancelToken& cancel, hub::Fetch what) {
  if (model.empty()) return invalid_argument("no model given; name a checkpoint folder");
  std::error_code error;
  const fs::path folder(model);
  if (fs::is_directory(folder, error)) return folder;
  if (is_gguf(model)) {
    return bad_input(fmt::format("{} is a GGUF file; make a folder of it first: autoglm export {} --format hf -o DIR",
                                 format::display_path(model), format::display_path(model)));
  }
  if (fs::exists(folder, error)) {
    return bad_input(format::display_path(model) +
                     " is a file; name the folder that holds config.json and the safetensors files");
  }
  if (!looks_like_id(model)) return bad_input(format::display_path(model) + ": no such folder");

  const size_t at = model.find('@');
  hub::ModelId id{.name = model.substr(0, at)};
  if (at != std::string::npos) id.revision = model.substr(at + 1);
  auto found = hub::fetch_model(hub::HubOptions::from_environment(), id, what, cancel);
  if (found.ok() || found.status().code() == StatusCode::kCancelled) return found;
  return found.status().with_context(fmt::format("{} is no folder here, and from the hub", model));
}

bool is_gguf(const std::string& model) {
  std::error_code error;
  return fs::path(model).extension() == ".gguf" && fs::is_regular_file(model, error);
}

}  // namespace autoglm::api
