#include "api/facts.h"

#include "core/eval/sizes.h"

namespace autoglm::api {

eval::ModelFacts model_facts(const format::StoredModel& model, const std::filesystem::path& folder) {
  const eval::Sizes sizes = eval::measure_sizes(model, nullptr);
  return {folder.string(),           std::string(to_string(model.config.family)),
          model.config.architecture, model.describe(),
          sizes.parameters,          sizes.file_bytes};
}

}  // namespace autoglm::api
