#include "compress/quant/gptq.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "compress/pass/registry.h"
#include "compress/quant/cast.h"
#include "compress/quant/grid.h"
#include "compress/quant/rtn.h"
#include "core/base/simd.h"

namespace autoglm::quant {
namespace {

constexpr int64_t kBlock = 128;            // columns between two matrix products (the paper's lazy batch)
constexpr int64_t kPieceBytes = 64 << 20;  // float32 rows worked on at once

/// One block of consecutive columns of R for the inner loop.
struct Columns {
  int64_t first = 0, count = 0;
  std::vector<float> r;        ///< [count, count], upper triangle
  std::vector<float> inverse;  ///< 1 / R_jj
};

Columns columns_of(const at::Tensor& r, int64_t first, int64_t count) {
  Columns block{first, count, std::vector<float>(static_cast<size_t>(count * count)), {}};
  const float* data = r.const_data_ptr<float>();
  const int64_t n = r.size(1);
  for (int64_t i = 0; i < count; ++i) {
    std::copy_n(data + (first + i) * n + first, count, block.r.begin() + i * count);
    block.inverse.push_back(1.0f / block.r[static_cast<size_t>(i * count + i)]);
  }
  return block;
}

/// carried[k] += error * r[k] for k in [from, to).
inline void carry(float* carried, const float* r, float error, int64_t from, int64_t to) {
  for (int64_t k = from; k < to; ++k) carried[k] += error * r[k];
}

/// Rounds columns [from, to) of a block of one row. On entry weights[k] is w and carried[k] is sum_{i<first} e_i R_ik
/// plus what earlier columns of the block added; on return weights[k] is e = w - real(q).
/// scale and zero point come per column, already looked up.
AUTOGLM_CLONES
void round_columns(float* weights, float* carried, const Columns& block, int64_t from, int64_t to, const float* scales,
                   const float* inverse_scales, const float* zeros, float q_min, float q_max, int8_t* out) {
  for (int64_t j = from; j < to; ++j) {
    const float wanted = weights[j] + carried[j] * block.inverse[static_cast<size_t>(j)];
    const float code =
        round_to_even(std::min(std::max(wanted * inverse_scales[j], q_min - zeros[j]), q_max - zeros[j]));
    const float error = weights[j] - code * scales[j];
    out[j] = static_cast<int8_t>(static_cast<int>(code + zeros[j]));
    weights[j] = error;
    carry(carried, block.r.data() + j * block.count, error, j + 1, block.count);
  }
}

/// The weights of columns [from, to) that would leave no error given all earlier columns: w - e with
/// sum_{i<k} e_i R_ik + e_k R_kk = 0, by forward substitution.
AUTOGLM_CLONES
void conditional_weights(const float* weights, const float* carried, const Columns& block, int64_t from, int64_t to,
                         float* scratch, float* out) {
  std::copy(carried + from, carried + to, scratch + from);
  for (int64_t j = from; j < to; ++j) {
    const float error = -scratch[j] * block.inverse[static_cast<size_t>(j)];
    out[j - from] = weights[j] - error;
    carry(scratch, block.r.data() + j * block.count, error, j + 1, to);
  }
}

/// Grids of one row by column of a block, in the order in which the columns are rounded.
struct ColumnGrids {
  std::vector<float> scales, inverse_scales, zeros;
  explicit ColumnGrids(int64_t count)
      : scales(static_cast<size_t>(count)),
        inverse_scales(static_cast<size_t>(count)),
        zeros(static_cast<size_t>(count)) {}

  void set(int64_t column, const GroupGrid& grid) {
    const auto at = static_cast<size_t>(column);
    scales[at] = grid.scale;
    inverse_scales[at] = 1.0f / grid.scale;
    zeros[at] = static_cast<float>(grid.zero_point);
  }
};

/// The rows of one piece being rounded.
class Rounder {
 public:
  Rounder(pass::Target& target, const HessianFactor& factor, const at::Tensor& importance, const at::Tensor& correction,
          format::QuantizedWeight& out)
      : scheme_(target.scheme), factor_(factor), importance_(importance), correction_(correction), out_(out) {
    const bool grouped = out.args.strategy == format::Strategy::kGroup;
    width_ = grouped ? out.args.group_size : out.cols;
    // In their own order, groups are fitted when their first column is reached, so that a block holds whole groups.
    refits_ = grouped && factor.order.empty();
    block_ = refits_ ? (width_ >= kBlock ? width_ : kBlock / width_ * width_) : kBlock;
  }

  /// False: every grid must have been fitted before.
  bool refits() const { return refits_; }

  Status run(int64_t first_row, const at::Tensor& rows, CancelToken& cancel) {
    at::Tensor errors =
        factor_.order.empty() ? rows.clone() : rows.index_select(1, at::tensor(factor_.order, at::kLong));
    const at::Tensor start = correction_.defined() ? at::mm(errors, correction_) : at::Tensor();
    for (int64_t first = 0; first < out_.cols; first += block_) {
      AUTOGLM_RETURN_IF_ERROR(cancel.check());
      const int64_t count = std::min(block_, out_.cols - first);
      at::Tensor carried = start.defined() ? start.slice(1, first, first + count).clone(at::MemoryFormat::Contiguous)
                                           : at::zeros({rows.size(0), count});
      if (first > 0) {
        carried.addmm_(errors.slice(1, 0, first), factor_.r.slice(0, 0, first).slice(1, first, first + count));
      }
      round_block(first_row, errors, carried, columns_of(factor_.r, first, count));
    }
    return ok_status();
  }

 private:
  int64_t channel(int64_t column) const {
    return factor_.order.empty() ? column : factor_.order[static_cast<size_t>(column)];
  }

  void round_block(int64_t first_row, at::Tensor& errors, at::Tensor& carried, const Columns& block) {
    float* error_data = errors.mutable_data_ptr<float>();
    float* carried_data = carried.mutable_data_ptr<float>();
    at::parallel_for(0, errors.size(0), 4, [&](int64_t begin, int64_t end) {
      ColumnGrids grids(block.count);
      std::vector<int8_t> codes(static_cast<size_t>(block.count));
      std::vector<float> scratch(static_cast<size_t>(block.count)), wanted(static_cast<size_t>(block.count));
      for (int64_t r = begin; r < end; ++r) {
        float* weights = error_data + r * out_.cols + block.first;
        float* carry = carried_data + r * block.count;
        const int64_t step = refits_ ? width_ : block.count;
        for (int64_t from = 0; from < block.count; from += step) {
          const int64_t to = std::min(from + step, block.count);
          if (refits_) {
            conditional_weights(weights, carry, block, from, to, scratch.data(), wanted.data());
            refit(first_row + r, (block.first + from) / width_, wanted.data());
          }
          for (int64_t j = from; j < to; ++j) {
            grids.set(j, grid_at(out_, first_row + r, channel(block.first + j) / width_));
          }
          round_columns(weights, carry, block, from, to, grids.scales.data(), grids.inverse_scales.data(),
                        grids.zeros.data(), static_cast<float>(scheme_.q_min()), static_cast<float>(scheme_.q_max()),
                        codes.data());
        }
        int8_t* row = out_.values.data() + (first_row + r) * out_.cols;
        for (int64_t j = 0; j < block.count; ++j) row[channel(block.first + j)] = codes[static_cast<size_t>(j)];
      }
    });
  }

  void refit(int64_t row, int64_t group, const float* weights) {
    const float* importance = importance_.defined() ? importance_.const_data_ptr<float>() + group * width_ : nullptr;
    const GroupGrid grid = fit_group(weights, importance, width_, scheme_, out_.scale_dtype);
    set_grid(out_, row, group, grid);
  }

  const pass::Scheme& scheme_;
  const HessianFactor& factor_;
  const at::Tensor& importance_;
  const at::Tensor& correction_;
  format::QuantizedWeight& out_;
  int64_t width_ = 0, block_ = 0;
  bool refits_ = false;
};

class Gptq : public pass::Pass {
 public:
  Gptq(std::string_view name, const GptqOptions& options) : name_(name), options_(options) {}

  std::string_view name() const override { return name_; }
  calibrate::Needs needs() const override { return {.hessian = true, .drift = options_.drift > 0}; }

  Status run(std::vector<pass::Target*>& stage, CancelToken& cancel) override {
    std::map<calibrate::InputStatistics*, std::vector<pass::Target*>> by_input;
    std::vector<calibrate::InputStatistics*> inputs;  // in the order of the stage, whatever their addresses
    for (pass::Target* target : stage) {
      auto& sharing = by_input[target->input];
      if (sharing.empty()) inputs.push_back(target->input);
      sharing.push_back(target);
    }
    for (calibrate::InputStatistics* input : inputs) {
      const Status status = run_shared(input, by_input[input], cancel);
      if (!status.ok()) {
        return status.code() == StatusCode::kCancelled ? status : status.with_context(by_input[input][0]->name);
      }
    }
    return ok_status();
  }

  int64_t working_bytes(int64_t rows, int64_t cols) const override {
    const int64_t piece = pass::piece_bytes(rows, cols, kPieceBytes);
    const int64_t panel = cols * 1024 * static_cast<int64_t>(sizeof(float));  // of the factorization
    const int64_t rounding = std::max(2 * piece, 2 * panel);
    if (options_.drift == 0) return rounding;
    return rounding + piece + 3 * cols * cols * static_cast<int64_t>(sizeof(float));  // the start, the correction
  }

  double flops(int64_t rows, int64_t cols) const override {
    const auto r = static_cast<double>(rows), c = static_cast<double>(cols);
    return c * c * c / 3 + r * c * c + 240 * r * c + (options_.drift > 0 ? c * c * c + 2 * r * c * c : 0);
  }

 private:
  Status run_shared(calibrate::InputStatistics* input, std::vector<pass::Target*>& sharing, CancelToken& cancel) {
    HessianFactor factor;
    at::Tensor importance, correction;
    if (input != nullptr && input->tokens > 0) {
      if (options_.weighted_search) importance = input->mean_square.cpu();
      AUTOGLM_ASSIGN_OR_RETURN(
          factor, factorize(std::move(input->hessian).cpu(), options_.damping, options_.act_order, cancel));
      if (options_.drift > 0 && input->drift.defined()) {
        correction = drift_correction(factor, std::move(input->drift).cpu(), options_.drift);
      }
    }
    for (pass::Target* target : sharing) {
      if (target->scheme.cast) {
        AUTOGLM_RETURN_IF_ERROR(cast(*target, cancel));
      } else if (!factor.r.defined()) {
        AUTOGLM_RETURN_IF_ERROR(round_to_nearest(*target, cancel));
        target->note = "no calibration token reached it: rounded to nearest";
      } else {
        AUTOGLM_RETURN_IF_ERROR(gptq(*target, factor, importance, correction, cancel));
        if (factor.damping > options_.damping) target->note = fmt::format("damping raised to {:g}", factor.damping);
        if (factor.dead > 0) {
          target->note += fmt::format("{}{} input channels never used", target->note.empty() ? "" : "; ", factor.dead);
        }
      }
    }
    return ok_status();
  }

  std::string_view name_;
  GptqOptions options_;
};

}  // namespace

Status gptq(pass::Target& target, const HessianFactor& factor, const at::Tensor& importance,
            const at::Tensor& correction, CancelToken& cancel) {
  format::QuantizedWeight out = make_result(target);
  Rounder rounder(target, factor, importance, correction, out);
  const bool one_grid = out.args.strategy == format::Strategy::kTensor;
  if (one_grid) AUTOGLM_RETURN_IF_ERROR(fit_tensor(target, importance, cancel, out));
  AUTOGLM_RETURN_IF_ERROR(pass::for_each_piece(
      target, cancel,
      [&](int64_t first, const at::Tensor& rows) -> Status {
        if (!one_grid && !rounder.refits()) {
          AUTOGLM_RETURN_IF_ERROR(fit_rows(rows, importance, first, target.scheme, out));
        }
        return rounder.run(first, rows, cancel);
      },
      kPieceBytes));
  target.result = std::move(out);
  return ok_status();
}

Result<GptqOptions> read_gptq_options(std::string_view name, const nlohmann::json& options,
                                      const std::vector<std::string>& more) {
  GptqOptions read;
  std::vector<std::string> known = {"damping", "act_order", "weighted_search"};
  known.insert(known.end(), more.begin(), more.end());
  AUTOGLM_RETURN_IF_ERROR(pass::check_options(name, options, known));
  AUTOGLM_RETURN_IF_ERROR(pass::read_option(name, options, "damping", read.damping));
  AUTOGLM_RETURN_IF_ERROR(pass::read_option(name, options, "act_order", read.act_order));
  AUTOGLM_RETURN_IF_ERROR(pass::read_option(name, options, "weighted_search", read.weighted_search));
  if (read.damping > 0 && read.damping <= 1) return read;
  return invalid_argument(fmt::format("method '{}': damping must be in (0, 1]", name));
}

std::unique_ptr<pass::Pass> make_gptq_pass(std::string_view name, const GptqOptions& options) {
  return std::make_unique<Gptq>(name, options);
}

Result<std::unique_ptr<pass::Pass>> make_gptq(const nlohmann::json& options) {
  AUTOGLM_ASSIGN_OR_RETURN(const GptqOptions read, read_gptq_options("gptq", options, {}));
  return make_gptq_pass("gptq", read);
}

}  // namespace autoglm::quant
