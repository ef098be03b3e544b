#pragma once
/// GPTQ: rounds column by column and moves each column's error onto the columns not yet rounded, so that the output on
/// the calibration inputs changes least. E. Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative
/// Pre-trained Transformers", 2022, arXiv:2210.17323; see hessian_factor.h for the form used here.
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "compress/pass/pass.h"
#include "compress/quant/hessian_factor.h"
#include "core/base/status.h"

namespace autoglm::quant {

struct GptqOptions {
  double damping = 0.01;        ///< added to the diagonal, relative to its mean; raised by itself where it must be
  bool act_order = true;        ///< round the channels with the largest inputs first; grids are then fixed beforehand
  bool weighted_search = true;  ///< the scale search weights errors by the mean square of their channel
  double drift = 0;             ///< share of the source's drift that is corrected (gptaq.h); 0: none
};

/// Quantizes one target with the factor of its input. `importance` [cols] or undefined is for the scale search;
/// `correction` [cols, cols] or undefined is GPTAQ's (gptaq.h).
Status gptq(pass::Target& target, const HessianFactor& factor, const at::Tensor& importance,
            const at::Tensor& correction, CancelToken& cancel);

/// "gptq" with the options damping, act_order, weighted_search.
Result<std::unique_ptr<pass::Pass>> make_gptq(const nlohmann::json& options);

/// Reads the options that `name` shares with gptq; kInvalidArgument names what is wrong. `more` are known to the
/// caller.
Result<GptqOptions> read_gptq_options(std::string_view name, const nlohmann::json& options,
                                      const std::vector<std::string>& more);
/// The pass that these options describe.
std::unique_ptr<pass::Pass> make_gptq_pass(std::string_view name, const GptqOptions& options);

}  // namespace autoglm::quant
