#include "api/run_identity.h"

#include <autoglm/version.h>

#include <chrono>
#include <system_error>

#include "core/base/sha256.h"
#include "core/eval/report.h"
#include "core/format/file.h"

namespace autoglm::api {

namespace fs = std::filesystem;

Result<nlohmann::json> run_identity(const Settings& settings, const format::Checkpoint& source, const pass::Plan& plan,
                                    const std::string& tokens_sha256, int threads) {
  nlohmann::json files = nlohmann::json::object();
  for (const fs::path& file : source.files()) {
    std::error_code error;
    const auto size = fs::file_size(file, error);
    const auto changed = error ? fs::file_time_type() : fs::last_write_time(file, error);
    if (error) return format::system_failure(file, "cannot be looked at", error.value());
    files[file.filename().string()] = {size, changed.time_since_epoch().count()};
  }
  AUTOGLM_ASSIGN_OR_RETURN(files["config.json"], format::sha256_of_file(source.folder() / "config.json"));
  return nlohmann::json{{"program", "autoglm " + version()},
                        {"source", files},
                        {"recipe", settings.recipe.to_json()},
                        {"calibration tokens", tokens_sha256},
                        {"seed", settings.seed},
                        {"threads", threads},
                        {"cpu", eval::cpu_name()},
                        {"device", settings.device},
                        {"compute", settings.compute},
                        {"tokens at once", plan.memory.batch_tokens},
                        {"statistics at once", plan.memory.statistics_bytes}};
}

}  // namespace autoglm::api
