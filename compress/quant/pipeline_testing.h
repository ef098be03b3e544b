#pragma once
/// Whole compressions for the tests of this room.
#include <ATen/ATen.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "compress/calibrate/hidden_states.h"
#include "compress/pass/pipeline.h"
#include "compress/quant/register.h"
#include "core/format/tiny_models.h"

namespace autoglm::quant::testing {

namespace fs = std::filesystem;
using format::kTiny;
inline const fs::path kDemo = fs::path(AUTOGLM_SOURCE_DIR) / "models/glm-phone-demo";

inline const pass::Registry& registry() {
  static const pass::Registry all = [] {
    pass::Registry registry;
    register_quantizers(registry);
    return registry;
  }();
  return all;
}

class Scratch {
 public:
  Scratch() {
    std::string name = (fs::temp_directory_path() / "autoglm-pipeline-XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
  }
  ~Scratch() { fs::remove_all(folder_); }
  fs::path operator/(const std::string& name) const { return folder_ / name; }
  const fs::path& folder() const { return folder_; }

 private:
  fs::path folder_;
};

inline std::vector<eval::Tokens> random_tokens(int64_t count, int64_t length, int64_t vocabulary, uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::vector<eval::Tokens> out(static_cast<size_t>(count));
  for (eval::Tokens& tokens : out) {
    for (int64_t i = 0; i < length; ++i)
      tokens.push_back(static_cast<int32_t>(generator() % static_cast<uint64_t>(vocabulary)));
  }
  return out;
}

inline pass::Recipe recipe_of(const std::string& scheme, const std::string& method) {
  pass::Recipe recipe;
  recipe.scheme = pass::Scheme::parse(scheme).value();
  recipe.method = method;
  return recipe;
}

struct Compressed {
  pass::PipelineReport report;
  pass::Plan plan;
  at::Tensor states;  ///< of the first calibration sequence after the last block, [length, hidden]
};

/// Writes and puts in place what `recipe` makes of the folder `from`. `blocks`: fails after so many.
inline Result<Compressed> compress(const fs::path& from, const fs::path& to, const pass::Recipe& recipe,
                                   const std::vector<eval::Tokens>& calibration, pass::PlanOptions options = {},
                                   CancelToken* cancel = nullptr, const pass::Registry& methods = registry(),
                                   const pass::Journal* journal = nullptr, int64_t blocks = INT64_MAX) {
  CancelToken own;
  AUTOGLM_ASSIGN_OR_RETURN(const model::Decoder decoder, model::Decoder::open(from));
  AUTOGLM_ASSIGN_OR_RETURN(
      const pass::Resolved resolved,
      pass::resolve(recipe, decoder.config(), decoder.layout(), &decoder.checkpoint(), methods, !calibration.empty()));
  options.sequences = static_cast<int64_t>(calibration.size());
  options.length = calibration.empty() ? 0 : static_cast<int64_t>(calibration.front().size());
  AUTOGLM_ASSIGN_OR_RETURN(const pass::Plan plan,
                           pass::make_plan(recipe, methods, resolved, &decoder.checkpoint(), options));
  AUTOGLM_ASSIGN_OR_RETURN(format::CheckpointWriter writer, format::CheckpointWriter::create(to, {.overwrite = true}));
  pass::PipelineInput input{&recipe, &methods, &resolved, &plan, &decoder, calibration, journal, {}};
  at::Tensor states;
  input.after_block = [&](int64_t layer, const calibrate::HiddenStates& all) -> Status {
    if (layer + 1 == blocks) return cancelled();
    AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor first, all.get(0, 1));
    states = first[0].clone();
    return ok_status();
  };
  AUTOGLM_ASSIGN_OR_RETURN(pass::PipelineReport report,
                           pass::run_pipeline(input, writer, cancel != nullptr ? *cancel : own));
  AUTOGLM_RETURN_IF_ERROR(writer.commit());
  return Compressed{std::move(report), plan, states};
}

inline std::string contents(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace autoglm::quant::testing
