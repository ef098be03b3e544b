#include "api/model_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <regex>

#include "core/format/display.h"

namespace autoglm::api {
namespace {

namespace fs = std::filesystem;

fs::path cache_folder() {
  const auto variable = [](const char* name) -> fs::path {
    const char* value = std::getenv(name);
    return value != nullptr ? value : "";
  };
  if (fs::path hub = variable("HF_HUB_CACHE"); !hub.empty()) return hub;
  if (fs::path home = variable("HF_HOME"); !home.empty()) return home / "hub";
  if (fs::path xdg = variable("XDG_CACHE_HOME"); !xdg.empty()) return xdg / "huggingface" / "hub";
  return variable("HOME") / ".cache" / "huggingface" / "hub";
}

bool looks_like_id(const std::string& name) {
  static const std::regex pattern(R"([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}(@[\w./-]{1,100})?)");
  return name.size() < 300 && std::regex_match(name, pattern) && name.find("..") == std::string::npos;
}

}  // namespace

Result<fs::path> find_model(const std::string& model) {
  if (model.empty()) return invalid_argument("no model given; name a checkpoint folder");
  std::error_code error;
  const fs::path folder(model);
  if (fs::is_directory(folder, error)) return folder;
  if (fs::exists(folder, error)) {
    return bad_input(format::display_path(model) +
                     " is a file; name the folder that holds config.json and the safetensors files");
  }
  if (!looks_like_id(model)) return bad_input(format::display_path(model) + ": no such folder");

  const size_t at = model.find('@');
  std::string name = model.substr(0, at);
  const std::string revision = at == std::string::npos ? "main" : model.substr(at + 1);
  const size_t slash = name.find('/');
  const fs::path repository = cache_folder() / ("models--" + name.substr(0, slash) + "--" + name.substr(slash + 1));
  if (!fs::is_directory(repository, error)) {
    return bad_input(fmt::format("{}: no such folder, and the Hugging Face cache has no {}; download it first", model,
                                 repository.string()));
  }
  std::string commit = revision;  // a revision that is no ref is itself a commit
  if (std::ifstream ref(repository / "refs" / revision); ref) std::getline(ref, commit);
  const fs::path snapshot = repository / "snapshots" / commit;
  if (commit.empty() || !fs::is_directory(snapshot, error)) {
    return bad_input(fmt::format("{}: the Hugging Face cache has the model but not revision '{}' ({})", model, revision,
                                 snapshot.string()));
  }
  return snapshot;
}

bool lies_in(const fs::path& input, const fs::path& output) {
  std::error_code error;
  if (!fs::exists(output, error)) return false;
  for (fs::path at = fs::canonical(input, error); !error; at = at.parent_path()) {
    if (fs::equivalent(at, output, error)) return true;
    if (at == at.parent_path()) break;
  }
  return false;
}

}  // namespace autoglm::api
