#include "core/eval/weight_diff.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>

#include "core/base/progress.h"
#include "core/format/display.h"
#include "core/format/folds.h"
#include "core/format/weight_rows.h"

namespace autoglm::eval {
namespace {

constexpr int64_t kPieceElements = 1 << 18;    // numbers compared at a time
constexpr int64_t kReleaseElements = 1 << 23;  // after so many, mapped pages are given back
constexpr size_t kLanes = 8;                   // partial sums: lets the compiler vectorise, and fixes the order

/// Sums over the numbers w of the source and v of the artifact.
struct Sums {
  double ww = 0, vv = 0, wv = 0, dd = 0;
  float max_abs = 0;
  bool equal = true;

  void add(std::span<const float> w, std::span<const float> v) {
    std::array<double, kLanes> lane_ww{}, lane_vv{}, lane_wv{}, lane_dd{};
    std::array<float, kLanes> lane_max{};
    const auto step = [&](size_t i, size_t lane) {
      const double a = w[i], b = v[i], d = a - b;
      lane_ww[lane] += a * a;
      lane_vv[lane] += b * b;
      lane_wv[lane] += a * b;
      lane_dd[lane] += d * d;
      const float distance = std::abs(w[i] - v[i]);
      lane_max[lane] = distance > lane_max[lane] ? distance : lane_max[lane];
    };
    size_t i = 0;
    for (; i + kLanes <= w.size(); i += kLanes) {
      for (size_t lane = 0; lane < kLanes; ++lane) step(i + lane, lane);
    }
    for (; i < w.size(); ++i) step(i, 0);
    for (size_t lane = 0; lane < kLanes; ++lane) {
      ww += lane_ww[lane];
      vv += lane_vv[lane];
      wv += lane_wv[lane];
      dd += lane_dd[lane];
      max_abs = std::max(max_abs, lane_max[lane]);
    }
    equal = equal && std::memcmp(w.data(), v.data(), w.size_bytes()) == 0;
  }

  double cosine() const {
    if (ww == 0 && vv == 0) return 1;
    return ww == 0 || vv == 0 ? 0 : wv / (std::sqrt(ww) * std::sqrt(vv));
  }
};

class Comparison {
 public:
  Comparison(const format::StoredModel& source, const format::StoredModel& compressed, const format::Folds& folds,
             const WeightDiffOptions& options, CancelToken& cancel)
      : source_(source),
        compressed_(compressed),
        folds_(folds),
        cancel_(cancel),
        stride_(options.max_bytes > 0 ? std::max<int64_t>(1, source.checkpoint.total_bytes() / options.max_bytes) : 1) {
  }

  Result<WeightDiff> run() {
    const auto& modules = compressed_.layout.modules();
    Progress progress("comparing weights", static_cast<int64_t>(modules.size()));
    int64_t done = 0;
    for (const format::ModuleSpec& module : modules) {
      AUTOGLM_RETURN_IF_ERROR(compare(module, format::Member::kWeight));
      if (module.has_bias) AUTOGLM_RETURN_IF_ERROR(compare(module, format::Member::kBias));
      progress.update(++done, module.name);
    }
    AUTOGLM_RETURN_IF_ERROR(compare_others());
    list_missing();
    diff_.compared_share =
        parameters_ > 0 ? static_cast<double>(compared_parameters_) / static_cast<double>(parameters_) : 1;
    return std::move(diff_);
  }

 private:
  Status compare(const format::ModuleSpec& module, format::Member member) {
    const format::WeightRows written = format::WeightRows::of(compressed_, module, member);
    const format::WeightRows original = format::WeightRows::matching(source_, module, member);
    const std::string name = member == format::Member::kBias ? module.bias_name() : module.name;
    if (original.segments().empty()) {
      for (const std::string& stored : written.stored_names()) diff_.extra.push_back(stored);
      return ok_status();
    }
    if (original.rows() != written.rows() || original.cols() != written.cols()) {
      return bad_input(fmt::format("{}: has {} x {} numbers, in the source {} x {}; these are not the same model",
                                   format::display(name), written.rows(), written.cols(), original.rows(),
                                   original.cols()));
    }
    for (const std::string& stored : original.stored_names()) used_.insert(stored);

    TensorDiff tensor;
    tensor.name = name;
    tensor.role = std::string(format::to_string(module.role));
    tensor.layer = module.layer;
    tensor.expert = module.expert;
    tensor.parameters = written.rows() * written.cols();
    Sums sums;
    AUTOGLM_RETURN_IF_ERROR(add_rows(module, original, written, sums, tensor.compared));
    parameters_ += tensor.parameters;
    compared_parameters_ += tensor.compared;
    if (!std::isfinite(sums.ww)) return not_finite(original);
    if (!std::isfinite(sums.vv)) return not_finite(written);

    const format::QuantScheme* scheme = member == format::Member::kWeight ? compressed_.scheme_of(module) : nullptr;
    if (sums.equal) {
      ++diff_.identical;
      return ok_status();
    }
    const std::vector<std::string> stored = written.stored_names();
    tensor.scheme = scheme != nullptr
                        ? format::describe(*scheme)
                        : std::string(format::to_string(compressed_.checkpoint.find(stored.front())->dtype));
    if (scheme == nullptr) diff_.changed.push_back(stored.front());
    tensor.mse = sums.dd / static_cast<double>(tensor.compared);
    tensor.relative_mse = sums.ww > 0 ? sums.dd / sums.ww : 0;
    tensor.cosine = sums.cosine();
    tensor.max_abs = sums.max_abs;
    diff_.tensors.push_back(std::move(tensor));
    return ok_status();
  }

  Status add_rows(const format::ModuleSpec& module, const format::WeightRows& original,
                  const format::WeightRows& written, Sums& sums, int64_t& compared) {
    const int64_t cols = written.cols();
    const int64_t piece = std::max<int64_t>(1, kPieceElements / std::max<int64_t>(1, cols));
    int64_t since_release = 0;
    for (int64_t first = 0; first < written.rows(); first += piece * stride_) {
      AUTOGLM_RETURN_IF_ERROR(cancel_.check());
      const int64_t count = std::min(piece, written.rows() - first);
      const auto elements = static_cast<size_t>(count * cols);
      w_.resize(elements);
      v_.resize(elements);
      AUTOGLM_RETURN_IF_ERROR(original.read(first, count, w_));
      AUTOGLM_RETURN_IF_ERROR(written.read(first, count, v_));
      if (folds_.changes(module.name)) unfold(module, first, cols);
      sums.add(w_, v_);
      compared += count * cols;
      since_release += count * cols;
      if (since_release >= kReleaseElements) {
        original.release();
        written.release();
        since_release = 0;
      }
    }
    original.release();
    written.release();
    return ok_status();
  }

  /// Takes what was folded out of v_. That rounds: what then lies within it of the source is the source's.
  void unfold(const format::ModuleSpec& module, int64_t first, int64_t cols) {
    constexpr float kRounding = 2 * std::numeric_limits<float>::epsilon();
    folds_.undo(module.name, first, cols, v_);
    for (size_t i = 0; i < v_.size(); ++i) {
      if (std::abs(v_[i] - w_[i]) <= kRounding * std::abs(w_[i])) v_[i] = w_[i];
    }
  }

  static Status not_finite(const format::WeightRows& rows) {
    return bad_input(
        fmt::format("{}: holds a value that is NaN or infinite", format::display(rows.stored_names().front())));
  }

  /// Tensors that no module names, by equal name and bytes.
  Status compare_others() {
    for (const std::string& name : compressed_.layout.others(compressed_.checkpoint)) {
      AUTOGLM_RETURN_IF_ERROR(cancel_.check());
      const format::TensorInfo* before = source_.checkpoint.find(name);
      const format::TensorInfo* after = compressed_.checkpoint.find(name);
      if (before == nullptr) {
        diff_.extra.push_back(name);
        continue;
      }
      used_.insert(name);
      bool same = before->dtype == after->dtype && before->shape == after->shape;
      if (same) {
        AUTOGLM_ASSIGN_OR_RETURN(const auto a, source_.checkpoint.bytes(name));
        AUTOGLM_ASSIGN_OR_RETURN(const auto b, compressed_.checkpoint.bytes(name));
        same = std::memcmp(a.data(), b.data(), a.size()) == 0;
        source_.checkpoint.release(name);
        compressed_.checkpoint.release(name);
      }
      if (same) {
        ++diff_.identical;
      } else {
        diff_.changed.push_back(name);
      }
    }
    return ok_status();
  }

  void list_missing() {
    for (const format::ModuleSpec& module : source_.layout.modules()) {
      for (const format::Member member : {format::Member::kWeight, format::Member::kBias}) {
        if (member == format::Member::kBias && !module.has_bias) continue;
        for (const std::string& name : format::WeightRows::of(source_, module, member).stored_names())
          add_if_missing(name);
      }
    }
    for (const std::string& name : source_.layout.others(source_.checkpoint)) add_if_missing(name);
  }

  void add_if_missing(const std::string& name) {
    if (used_.count(name) == 0) diff_.missing.push_back(name);
  }

  const format::StoredModel& source_;
  const format::StoredModel& compressed_;
  const format::Folds& folds_;
  CancelToken& cancel_;
  const int64_t stride_;
  WeightDiff diff_;
  std::set<std::string> used_;  // tensors of the source that the artifact holds
  std::vector<float> w_, v_;
  int64_t parameters_ = 0, compared_parameters_ = 0;
};

}  // namespace

Result<WeightDiff> compare_weights(const format::StoredModel& source, const format::StoredModel& compressed,
                                   const WeightDiffOptions& options, CancelToken& cancel) {
  AUTOGLM_ASSIGN_OR_RETURN(const format::Folds folds,
                           format::Folds::read(compressed.checkpoint.folder(), compressed.layout, compressed.config));
  return Comparison(source, compressed, folds, options, cancel).run();
}

}  // namespace autoglm::eval
