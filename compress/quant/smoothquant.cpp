#include "compress/quant/smoothquant.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "compress/pass/registry.h"
#include "compress/quant/scale_search.h"

namespace autoglm::quant {
namespace {

constexpr double kSmallestShare = 1e-5;  // of the largest channel: keeps dead channels from scales without bound

at::Tensor bounded(const at::Tensor& sizes) { return sizes.clamp_min(sizes.amax() * kSmallestShare); }

class SmoothQuant : public pass::Smoother {
 public:
  SmoothQuant(std::vector<double> strengths, bool fixed) : strengths_(std::move(strengths)), fixed_(fixed) {}

  std::string_view name() const override { return "smoothquant"; }
  bool folds(format::FoldKind kind) const override {
    return kind == format::FoldKind::kInputNorm || kind == format::FoldKind::kMlpNorm;
  }
  calibrate::Needs needs() const override { return {.moments = true, .sample_tokens = kSearchTokens}; }

  Status run(pass::FoldTarget& target, CancelToken& cancel) override {
    at::Tensor inputs = at::zeros({target.channels}), weights = at::zeros({target.channels});
    for (const pass::Target& consumer : target.consumers) {
      inputs = at::maximum(inputs, target.by_channel(consumer.input->absmax.cpu()).amax(1).view({-1}));
      AUTOGLM_RETURN_IF_ERROR(pass::for_each_piece(consumer, cancel, [&](int64_t, const at::Tensor& rows) {
        weights = at::maximum(weights, target.by_channel(rows.abs().amax(0)).amax(1).view({-1}));
        return ok_status();
      }));
    }
    inputs = bounded(inputs);
    weights = bounded(weights);
    const auto scales_of = [&](double strength) { return centred(inputs.pow(strength) / weights.pow(1 - strength)); };
    if (!fixed_) return choose_scales(target, "SmoothQuant", strengths_, scales_of, cancel);
    target.scales = target.storable(scales_of(strengths_[0])).cpu();
    target.note = fmt::format("SmoothQuant α {:g}", strengths_[0]);
    return ok_status();
  }

  int64_t working_bytes(int64_t rows, int64_t cols) const override { return search_bytes(rows, cols); }
  double flops(int64_t rows, int64_t cols) const override {
    return fixed_ ? 0 : search_flops(rows, cols, strengths_.size());
  }

 private:
  std::vector<double> strengths_;
  bool fixed_;
};

}  // namespace

Result<std::unique_ptr<pass::Smoother>> make_smoothquant(const nlohmann::json& options) {
  AUTOGLM_RETURN_IF_ERROR(pass::check_options("smoothquant", options, {"strength"}));
  double strength = -1;
  AUTOGLM_RETURN_IF_ERROR(pass::read_option("smoothquant", options, "strength", strength));
  const bool fixed = options.is_object() && options.contains("strength");
  if (fixed && !(strength >= 0 && strength <= 1)) {
    return invalid_argument("method 'smoothquant': strength must be in [0, 1]");
  }
  std::vector<double> strengths;
  for (int i = 1; i < 20 && !fixed; ++i) strengths.push_back(i / 20.0);
  if (fixed) strengths.push_back(strength);
  return std::unique_ptr<pass::Smoother>(std::make_unique<SmoothQuant>(std::move(strengths), fixed));
}

}  // namespace autoglm::quant
