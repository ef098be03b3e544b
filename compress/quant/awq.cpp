#include "compress/quant/awq.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "compress/pass/registry.h"
#include "compress/quant/cast.h"
#include "compress/quant/grid.h"
#include "compress/quant/rtn.h"
#include "compress/quant/scale_search.h"
#include "compress/tensor/bridge.h"

namespace autoglm::quant {
namespace {

using format::QuantizedWeight;

constexpr int kStrengths = 20;           // the authors' grid: α = 0, 1/20, ..., 19/20
constexpr double kSmallestMean = 1e-4;   // of the largest channel's, for channels that are never used
constexpr int64_t kClipTokens = 512;     // sample inputs that clipping is judged by
constexpr int64_t kClipPiece = 8 << 20;  // float32 rows worked on at once

class AwqScales : public pass::Smoother {
 public:
  std::string_view name() const override { return "awq"; }
  bool folds(format::FoldKind) const override { return true; }
  calibrate::Needs needs() const override { return {.moments = true, .sample_tokens = kSearchTokens}; }

  Status run(pass::FoldTarget& target, CancelToken& cancel) override {
    // Every expert counts by its tokens.
    at::Tensor sum = at::zeros({target.channels});
    double tokens = 0;
    for (const pass::Target& consumer : target.consumers) {
      const auto own = static_cast<double>(consumer.input->tokens);
      sum = sum + target.by_channel(consumer.input->mean_abs.cpu()).mean(1).view({-1}) * own;
      tokens += own;
    }
    at::Tensor mean = sum / tokens;
    mean = mean.clamp_min(mean.amax() * kSmallestMean);
    std::vector<double> strengths;
    for (int i = 1; i < kStrengths; ++i) strengths.push_back(static_cast<double>(i) / kStrengths);
    return choose_scales(
        target, "AWQ", strengths, [&](double strength) { return centred(mean.pow(strength)); }, cancel);
  }

  int64_t working_bytes(int64_t rows, int64_t cols) const override { return search_bytes(rows, cols); }
  double flops(int64_t rows, int64_t cols) const override { return search_flops(rows, cols, kStrengths - 1); }
};

/// The groups of one weight, with what multiplies each.
class Clipping {
 public:
  /// `sample` [tokens, cols].
  Clipping(const pass::Target& target, const at::Tensor& sample) : target_(target), sample_(sample) {
    const QuantizedWeight shape = make_result(target, 0);
    width_ = group_columns(shape);
    for (int64_t first = 0; first < target.cols; first += width_) {
      const at::Tensor x = sample.slice(1, first, first + width_);
      // |x e| = |R e| for x = Q R, which has no more rows than columns.
      bases_.push_back(x.size(0) > width_ ? std::get<1>(at::linalg_qr(x, "r")) : x.contiguous());
    }
  }

  /// Grids and integers of some rows.
  Result<QuantizedWeight> run(int64_t first_row, const at::Tensor& rows) const {
    QuantizedWeight plain = make_result(target_, rows.size(0));
    AUTOGLM_RETURN_IF_ERROR(fit_rows(rows, {}, first_row, target_.scheme, plain));
    QuantizedWeight clipped = plain;
    for (size_t group = 0; group < bases_.size(); ++group) clip(rows, static_cast<int64_t>(group), clipped);
    const at::Tensor better = error(rows, clipped) < error(rows, plain);
    const int64_t groups = static_cast<int64_t>(bases_.size());
    for (int64_t r = 0; r < rows.size(0); ++r) {
      if (better[r].item<bool>()) continue;
      for (int64_t g = 0; g < groups; ++g) set_grid(clipped, r, g, grid_at(plain, r, g));
    }
    quantize_rows(rows, 0, target_.scheme, clipped);
    return clipped;
  }

 private:
  /// Puts the best grid of every row's group into `out`.
  void clip(const at::Tensor& rows, int64_t group, QuantizedWeight& out) const {
    const at::Tensor& basis = bases_[static_cast<size_t>(group)];
    const int64_t count = rows.size(0), cols = rows.size(1);
    const float* values = rows.const_data_ptr<float>() + group * width_;
    const at::Tensor residual = at::empty({count, width_});
    float* residuals = residual.mutable_data_ptr<float>();
    std::vector<GroupGrid> grids(static_cast<size_t>(count));
    at::Tensor least;
    for (int64_t index = -1; index <= kNarrowerGrids; ++index) {  // -1: what round-to-nearest takes
      at::parallel_for(0, count, 16, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
          GroupGrid& grid = grids[static_cast<size_t>(r)];
          const float* row = values + r * cols;
          grid = index < 0 ? grid_at(out, r, group)
                           : narrower_grid(row, width_, index, target_.scheme, target_.scale_dtype);
          group_residual(row, width_, grid, target_.scheme, residuals + r * width_);
        }
      });
      const at::Tensor error = at::mm(residual, basis.t()).square_().sum(1);
      if (!least.defined()) {
        least = error;
        continue;
      }
      const float* now = error.const_data_ptr<float>();
      float* best = least.mutable_data_ptr<float>();
      for (int64_t r = 0; r < count; ++r) {
        if (!(now[r] < best[r])) continue;
        best[r] = now[r];
        set_grid(out, r, group, grids[static_cast<size_t>(r)]);
      }
    }
  }

  /// Of each row's output on the sample, all groups together.
  at::Tensor error(const at::Tensor& rows, QuantizedWeight& grids) const {
    quantize_rows(rows, 0, target_.scheme, grids);
    return at::mm(rows - tensor::dequantize(grids, at::kFloat), sample_.t()).square_().sum(1);
  }

  const pass::Target& target_;
  at::Tensor sample_;
  int64_t width_ = 0;
  std::vector<at::Tensor> bases_;
};

Status clip_and_round(pass::Target& target, CancelToken& cancel) {
  QuantizedWeight out = make_result(target);
  const Clipping clipping(target, target.input->sample.cpu().contiguous());
  const int64_t groups = out.args.groups(target.cols);
  AUTOGLM_RETURN_IF_ERROR(pass::for_each_piece(
      target, cancel,
      [&](int64_t first, const at::Tensor& rows) -> Status {
        AUTOGLM_ASSIGN_OR_RETURN(const QuantizedWeight piece, clipping.run(first, rows));
        std::copy(piece.values.begin(), piece.values.end(), out.values.begin() + first * target.cols);
        for (int64_t r = 0; r < rows.size(0); ++r) {
          for (int64_t g = 0; g < groups; ++g) set_grid(out, first + r, g, grid_at(piece, r, g));
        }
        return ok_status();
      },
      kClipPiece));
  target.result = std::move(out);
  return ok_status();
}

class Awq : public pass::Pass {
 public:
  std::string_view name() const override { return "awq"; }
  calibrate::Needs needs() const override { return {.sample_tokens = kClipTokens}; }

  Status run(std::vector<pass::Target*>& stage, CancelToken& cancel) override {
    for (pass::Target* target : stage) {
      const Status status = run_one(*target, cancel);
      if (!status.ok()) return status.code() == StatusCode::kCancelled ? status : status.with_context(target->name);
    }
    return ok_status();
  }

  int64_t working_bytes(int64_t rows, int64_t cols) const override {
    const int64_t piece = pass::piece_bytes(rows, cols, kClipPiece);
    const auto width = static_cast<int64_t>(sizeof(float));
    return 5 * piece + kClipTokens * (2 * cols + 2 * piece / (cols * width)) * width;
  }
  double flops(int64_t rows, int64_t cols) const override {
    const double candidate = 50 + 2.0 * static_cast<double>(std::min(cols, int64_t{128}));
    return (800 + 4.0 * kClipTokens + (kNarrowerGrids + 2) * candidate) * static_cast<double>(rows * cols);
  }

 private:
  static Status run_one(pass::Target& target, CancelToken& cancel) {
    if (target.scheme.cast) return cast(target, cancel);
    const bool seen = target.input != nullptr && target.input->tokens > 0;
    // One range for a whole matrix leaves no group to clip.
    if (seen && target.scheme.weights.strategy != format::Strategy::kTensor) return clip_and_round(target, cancel);
    if (!seen) target.note = "no calibration token reached it: rounded to nearest";
    return round_to_nearest(target, cancel);
  }
};

}  // namespace

Result<std::unique_ptr<pass::Smoother>> make_awq_scales(const nlohmann::json& options) {
  AUTOGLM_RETURN_IF_ERROR(pass::check_options("awq", options, {}));
  return std::unique_ptr<pass::Smoother>(std::make_unique<AwqScales>());
}

Result<std::unique_ptr<pass::Pass>> make_awq(const nlohmann::json& options) {
  AUTOGLM_RETURN_IF_ERROR(pass::check_options("awq", options, {}));
  return std::unique_ptr<pass::Pass>(std::make_unique<Awq>());
}

}  // namespace autoglm::quant
