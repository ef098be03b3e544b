#pragma once
/// What a report says of a model folder in one line.
#include <filesystem>

#include "core/eval/report.h"
#include "core/format/stored_model.h"

namespace autoglm::api {

eval::ModelFacts model_facts(const format::StoredModel& model, const std::filesystem::path& folder);

}  // namespace autoglm::api
