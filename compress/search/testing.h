#pragma once
/// For the tests of this room, which may not see the methods: plain rounding under the name "rtn", and what a model
/// that is written by it loses.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "compress/model/decoder.h"
#include "compress/pass/pipeline.h"
#include "compress/pass/registry.h"
#include "core/format/dtype.h"

namespace autoglm::search::testing {

/// The smallest scale that clips nothing, and the nearest integers.
class Rounding : public pass::Pass {
 public:
  std::string_view name() const override { return "rtn"; }

  Status run(std::vector<pass::Target*>& stage, CancelToken&) override {
    for (pass::Target* target : stage) {
      AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor rows, target->read(0, target->rows));
      format::QuantizedWeight out;
      out.args = target->scheme.weights;
      out.rows = target->rows;
      out.cols = target->cols;
      out.scale_dtype = target->scale_dtype;
      const int64_t groups = out.args.groups(out.cols);
      const at::Tensor grouped = rows.view({out.rows, groups, -1});
      const double lowest = out.args.q_min(), highest = out.args.q_max();
      const at::Tensor low = grouped.amin(-1, true).clamp_max(0), high = grouped.amax(-1, true).clamp_min(0);
      const at::Tensor wanted =
          out.args.symmetric ? at::maximum(high, -low) / highest : (high - low) / (highest - lowest);
      const at::Tensor scale = (wanted.clamp_min(1e-20) * 1.01).to(at::kBFloat16).to(at::kFloat);
      const at::Tensor zero = out.args.symmetric ? at::zeros_like(scale) : (lowest - low / scale).round();
      const at::Tensor codes = (grouped / scale + zero).round().clamp(lowest, highest).to(at::kChar).contiguous();
      out.values.assign(codes.const_data_ptr<int8_t>(), codes.const_data_ptr<int8_t>() + codes.numel());
      const at::Tensor scales = scale.contiguous(), zeros = zero.to(at::kChar).contiguous();
      out.scales.assign(scales.const_data_ptr<float>(), scales.const_data_ptr<float>() + scales.numel());
      if (!out.args.symmetric) {
        out.zero_points.assign(zeros.const_data_ptr<int8_t>(), zeros.const_data_ptr<int8_t>() + zeros.numel());
      }
      target->result = std::move(out);
    }
    return ok_status();
  }

  int64_t working_bytes(int64_t rows, int64_t cols) const override { return rows * cols * 8; }
  double flops(int64_t rows, int64_t cols) const override { return static_cast<double>(rows * cols); }
};

inline pass::Registry registry() {
  pass::Registry out;
  out.add("rtn", [](const nlohmann::json&) -> Result<std::unique_ptr<pass::Pass>> {
    return std::unique_ptr<pass::Pass>(std::make_unique<Rounding>());
  });
  return out;
}

inline std::vector<eval::Tokens> random_tokens(int64_t count, int64_t length, uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::vector<eval::Tokens> out(static_cast<size_t>(count));
  for (eval::Tokens& tokens : out) {
    for (int64_t i = 0; i < length; ++i) tokens.push_back(static_cast<int32_t>(generator() % 320));
  }
  return out;
}

/// What `recipe` makes of `source`, put in place as the folder `to`.
inline Result<model::Decoder> written(const model::Decoder& source, const pass::Recipe& recipe,
                                      const std::filesystem::path& to) {
  CancelToken cancel;
  const pass::Registry methods = registry();
  AUTOGLM_ASSIGN_OR_RETURN(const auto resolved, pass::resolve(recipe, source.config(), source.layout(),
                                                              &source.checkpoint(), methods, false));
  AUTOGLM_ASSIGN_OR_RETURN(const auto plan, pass::make_plan(recipe, methods, resolved, &source.checkpoint(), {}));
  AUTOGLM_ASSIGN_OR_RETURN(auto writer, format::CheckpointWriter::create(to, {.overwrite = true}));
  const pass::PipelineInput input{&recipe, &methods, &resolved, &plan, &source, {}, nullptr, {}};
  AUTOGLM_RETURN_IF_ERROR(pass::run_pipeline(input, writer, cancel).status());
  AUTOGLM_RETURN_IF_ERROR(writer.commit());
  return model::Decoder::open(to);
}

/// Mean KL(source || written) over the tokens, in nats.
inline double divergence(const model::Decoder& source, const model::Decoder& written,
                         const std::vector<eval::Tokens>& texts) {
  const at::NoGradGuard no_grad;
  double sum = 0;
  int64_t tokens = 0;
  for (const eval::Tokens& text : texts) {
    at::Tensor logits[2];
    for (const int which : {0, 1}) {
      const model::Decoder& model = which == 0 ? source : written;
      at::Tensor states = model.embed(text).value();
      const model::Rotary rotary = model.rotary(states.size(1));
      for (int64_t layer = 0; layer < model.config().num_hidden_layers; ++layer) {
        states = model::forward(model.config(), model.load_block(layer).value(), rotary, states);
      }
      logits[which] = at::log_softmax(model.logits(states[0]).value(), -1);
    }
    sum += (logits[0].exp() * (logits[0] - logits[1])).sum().item<double>();
    tokens += static_cast<int64_t>(text.size());
  }
  return sum / static_cast<double>(tokens);
}

}  // namespace autoglm::search::testing
