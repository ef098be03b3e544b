#include "compress/export/hf.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "compress/export/copied_tensor.h"
#include "compress/export/input_statistics.h"
#include "core/base/progress.h"
#include "core/format/display.h"
#include "core/format/small_files.h"
#include "core/format/weight_rows.h"

namespace autoglm::exports {
namespace {

using format::DType;
using format::Member;
using format::ModuleSpec;
using format::WeightRows;
using Bytes = std::span<const std::byte>;

constexpr int64_t kPieceValues = 1 << 20;

/// The values of one tensor, as they are to be written, a few rows at a time.
class Pieces {
 public:
  Pieces(const format::StoredModel& model, const ModuleSpec& module, Member member, DType dtype)
      : rows_(WeightRows::of(model, module, member)), name_(format::tensor_name(module, member)), dtype_(dtype) {}

  /// Empty at the end; valid until the next call.
  Result<Bytes> next() {
    const int64_t count = std::min(rows_.rows() - done_, std::max<int64_t>(1, kPieceValues / rows_.cols()));
    rows_.release();
    if (count == 0) return Bytes();
    values_.resize(static_cast<size_t>(count * rows_.cols()));
    bytes_.resize(values_.size() * static_cast<size_t>(format::size_of(dtype_)));
    AUTOGLM_RETURN_IF_ERROR(rows_.read(done_, count, values_));
    format::from_float(dtype_, values_, bytes_);
    if (const int64_t at = format::first_non_finite(dtype_, bytes_); at >= 0) {
      return bad_input(fmt::format("tensor {}: element {} is {}, which {} does not hold; name another --type",
                                   format::display(name_), done_ * rows_.cols() + at, values_[static_cast<size_t>(at)],
                                   format::to_string(dtype_)));
    }
    done_ += count;
    return Bytes(bytes_);
  }

  /// Largest difference that rounding makes in the piece, and largest value.
  std::pair<double, double> rounding() const {
    double difference = 0, largest = 0;
    for (const float value : values_) {
      const double rounded = format::rounded_to(dtype_, value);
      difference = std::max(difference, std::abs(rounded - static_cast<double>(value)));
      largest = std::max(largest, std::abs(static_cast<double>(value)));
    }
    return {difference, largest};
  }

 private:
  WeightRows rows_;
  std::string name_;
  DType dtype_;
  int64_t done_ = 0;
  std::vector<float> values_;
  std::vector<std::byte> bytes_;
};

class HfExport {
 public:
  HfExport(const format::StoredModel& model, const HfOptions& options, format::CheckpointWriter& writer,
           CancelToken& cancel)
      : model_(model), options_(options), writer_(writer), cancel_(cancel) {}

  Result<HfReport> run() {
    report_.dtype = dtype();
    AUTOGLM_RETURN_IF_ERROR(write());
    AUTOGLM_RETURN_IF_ERROR(writer_.finish());
    AUTOGLM_RETURN_IF_ERROR(read_back());
    return report_;
  }

 private:
  Status write() {
    format::ModelConfig config = model_.config.as_transformers();
    config.dtype = dtype();
    AUTOGLM_RETURN_IF_ERROR(writer_.write_file("config.json", config.to_json({})));
    AUTOGLM_RETURN_IF_ERROR(format::copy_small_files(model_.checkpoint.folder(), writer_.folder()));
    AUTOGLM_RETURN_IF_ERROR(InputStatistics::copy(model_, writer_.folder()));
    const auto& modules = model_.layout.modules();
    Progress progress("writing", std::ssize(modules));
    int64_t done = 0;
    for (const ModuleSpec& module : modules) {
      AUTOGLM_RETURN_IF_ERROR(write_member(module, Member::kWeight));
      if (module.has_bias) AUTOGLM_RETURN_IF_ERROR(write_member(module, Member::kBias));
      progress.update(++done);
    }
    for (const std::string& name : model_.layout.others(model_.checkpoint)) {
      AUTOGLM_RETURN_IF_ERROR(writer_.add(name, model_.checkpoint, name));
    }
    return ok_status();
  }

  DType dtype() const {
    const DType usual = model_.config.dtype == DType::kF64 ? DType::kF32 : model_.config.dtype;
    return options_.dtype.value_or(usual);
  }

  /// The type of a tensor of the result; none for one that is copied.
  std::optional<DType> type_of(const ModuleSpec& module, Member member) const {
    if (member == Member::kWeight && model_.scheme_of(module) != nullptr) return dtype();
    return options_.dtype;
  }

  Status write_member(const ModuleSpec& module, Member member) {
    const std::string name = format::tensor_name(module, member);
    const auto dtype = type_of(module, member);
    if (!dtype) return writer_.add(name, model_.checkpoint, name, {.finite = true});
    Pieces pieces(model_, module, member, *dtype);
    double difference = 0, largest = 0;
    const format::Shape shape = member == Member::kBias ? format::Shape{module.shape[0]} : module.shape;
    AUTOGLM_RETURN_IF_ERROR(writer_.add_streamed(name, *dtype, shape, [&]() -> Result<Bytes> {
      AUTOGLM_ASSIGN_OR_RETURN(const Bytes piece, pieces.next());
      if (!piece.empty()) {
        const auto [of_piece, top] = pieces.rounding();
        difference = std::max(difference, of_piece);
        largest = std::max(largest, top);
      }
      return piece;
    }));
    if (const auto* scheme = member == Member::kWeight ? model_.scheme_of(module) : nullptr) {
      ++report_.matrices;
      report_.had_activations = report_.had_activations || scheme->input_activations.has_value();
    }
    if (largest > 0) report_.rounding = std::max(report_.rounding, difference / largest);
    return ok_status();
  }

  /// Opens what was written as any reader would, and compares it with the artifact, byte for byte.
  Status read_back() {
    AUTOGLM_ASSIGN_OR_RETURN(const auto written, format::StoredModel::open(writer_.staging()));
    const auto& modules = model_.layout.modules();
    Progress progress("reading back", std::ssize(modules));
    int64_t done = 0;
    for (const ModuleSpec& module : modules) {
      AUTOGLM_RETURN_IF_ERROR(compare(written, module, Member::kWeight));
      if (module.has_bias) AUTOGLM_RETURN_IF_ERROR(compare(written, module, Member::kBias));
      progress.update(++done);
    }
    for (const std::string& name : model_.layout.others(model_.checkpoint)) {
      AUTOGLM_RETURN_IF_ERROR(compare_copy(written, name));
    }
    return ok_status();
  }

  Status compare(const format::StoredModel& written, const ModuleSpec& module, Member member) {
    const std::string name = format::tensor_name(module, member);
    const auto dtype = type_of(module, member);
    if (!dtype) return compare_copy(written, name);
    AUTOGLM_ASSIGN_OR_RETURN(Bytes bytes, written.checkpoint.bytes(name));
    Pieces pieces(model_, module, member, *dtype);
    while (true) {
      AUTOGLM_RETURN_IF_ERROR(cancel_.check());
      AUTOGLM_ASSIGN_OR_RETURN(const Bytes piece, pieces.next());
      if (piece.empty()) break;
      if (bytes.size() < piece.size() || !std::equal(piece.begin(), piece.end(), bytes.begin())) return differs(name);
      bytes = bytes.subspan(piece.size());
      written.checkpoint.release(name);
    }
    ++report_.checked;
    return bytes.empty() ? ok_status() : differs(name);
  }

  Status compare_copy(const format::StoredModel& written, const std::string& name) {
    ++report_.checked;
    return exports::compare_copy(written.checkpoint, name, {model_.checkpoint, name}, cancel_);
  }

  const format::StoredModel& model_;
  const HfOptions& options_;
  format::CheckpointWriter& writer_;
  CancelToken& cancel_;
  HfReport report_;
};

}  // namespace

Result<HfReport> write_hf(const format::StoredModel& model, const HfOptions& options, format::CheckpointWriter& writer,
                          CancelToken& cancel) {
  return HfExport(model, options, writer, cancel).run();
}

}  // namespace autoglm::exports
