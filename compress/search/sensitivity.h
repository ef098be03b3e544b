#pragma once
/// Sensitivity: what each group of tensors would cost in bytes and lose in divergence in every format it could have.
///
/// The loss is a second-order estimate on the source alone. For one sequence KL(source || changed) is, to second order,
/// 1/2 E[<dW, g>^2], where g is the gradient of the log-likelihood of tokens drawn from the model's own predictions:
/// the Fisher information. Rounding errors of different weights hardly correlate, so its diagonal is enough:
///   KL per token = 1/(2 tokens) sum_sequences sum_ij dW_ij^2 g_ij^2
/// (Y. LeCun et al. 1990, Optimal Brain Damage, with the Fisher matrix for the Hessian; J. Martens 2020,
/// arXiv:1412.1193, section 5, for drawing the tokens.) dW is rounding to nearest; methods that compensate errors lose
/// less, by much the same share in every format.
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "compress/model/decoder.h"
#include "compress/pass/resolve.h"
#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/eval/scorer.h"

namespace autoglm::search {

/// One format of a group.
struct Candidate {
  std::string scheme;  ///< a scheme word, or "keep"
  int64_t bytes = 0;   ///< of all its tensors as stored: integers, scales, zero points, biases
  double loss = 0;     ///< nats per token
};

/// Modules that are stored in one format: what the loaders fuse (q, k and v; gate and up; all routed experts), and
/// every other matrix on its own.
struct Group {
  std::string name;                  ///< "model.layers.3.self_attn.q_proj+k_proj+v_proj"
  std::string kind;                  ///< "embedding", "head", "linear", "experts"
  std::vector<std::string> modules;  ///< their names as written
  int64_t parameters = 0;
  std::vector<Candidate> candidates;
};

struct Sensitivity {
  std::vector<Group> groups;
  int64_t other_bytes = 0;    ///< what is stored whatever is chosen: norms, tensors of no module, fixed modules
  int64_t other_tensors = 0;  ///< their number
  int64_t parameters = 0;     ///< of the whole model, tied tables counted once
  int64_t tokens = 0;         ///< that the estimate rests on
  std::string fingerprint;    ///< of the model and the text, where the caller sets one

  nlohmann::ordered_json to_json() const;
  /// kBadInput: not what to_json gives.
  static Result<Sensitivity> from_json(const nlohmann::json& json);
};

/// 2, 3, 4, 5, 6 and 8 bits; groups of 32, 64 and 128 and whole rows; symmetric and asymmetric.
std::vector<std::string> all_schemes();

struct SensitivityOptions {
  std::vector<std::string> schemes = all_schemes();  ///< to consider; those that do not fit a group are left out
  int64_t tokens = 4096;                             ///< of the calibration sequences, at most
  int64_t length = 128;                              ///< they are cut to this
  uint64_t seed = 0;                                 ///< of the drawn tokens
};

/// `recipe` says which modules are fixed: what its overrides or `ignore` match. `source` computes in fp32. Holds one
/// block, its gradients and their squares in memory, and the states of all blocks for the tokens used.
/// kInvalidArgument: no calibration, nothing to choose. kBadInput: weights, a gradient that is NaN.
Result<Sensitivity> measure_sensitivity(const model::Decoder& source, const pass::Recipe& recipe,
                                        const pass::Registry& registry, const std::vector<eval::Tokens>& calibration,
                                        const SensitivityOptions& options, CancelToken& cancel);

/// Bytes of working memory beyond the program, for plans.
int64_t sensitivity_bytes(const model::Decoder& source, const SensitivityOptions& options);

}  // namespace autoglm::search
