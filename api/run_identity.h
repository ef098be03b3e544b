#pragma once
/// What decides every byte of a compression: an interrupted one is resumed where all of it is the same.
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "api/settings.h"
#include "compress/pass/plan.h"
#include "core/base/status.h"
#include "core/format/checkpoint.h"

namespace autoglm::api {

/// An object whose members are named as people know them. `tokens_sha256`: of the calibration sequences. The source's
/// weight files are known by size and time of change, its config by what it says.
Result<nlohmann::json> run_identity(const Settings& settings, const format::Checkpoint& source, const pass::Plan& plan,
                                    const std::string& tokens_sha256, int threads);

}  // namespace autoglm::api
