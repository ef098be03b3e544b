#include "compress/export/weight_layout.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>

#include "compress/export/copied_tensor.h"
#include "compress/export/difference.h"
#include "core/base/progress.h"
#include "core/format/display.h"
#include "core/format/small_files.h"
#include "core/format/weight_rows.h"

namespace autoglm::exports {
namespace {

using format::DType;
using format::ModuleSpec;
using format::QuantArgs;

constexpr int64_t kPieceValues = 1 << 20;

/// Rows of a module of the artifact that are a module of the result.
struct Part {
  std::string name;
  int64_t first, rows;
};

std::vector<Part> parts_of(const ModuleSpec& module) {
  const int64_t rows = module.shape[0];
  if (module.role != format::Role::kGateUp) return {{module.name, 0, rows}};
  const std::string before = module.name.substr(0, module.name.rfind('.') + 1);
  return {{before + "gate_proj", 0, rows / 2}, {before + "up_proj", rows / 2, rows / 2}};
}

class LayoutExport {
 public:
  LayoutExport(const format::StoredModel& model, const WeightLayout& layout, format::CheckpointWriter& writer,
               CancelToken& cancel)
      : model_(model), layout_(layout), writer_(writer), cancel_(cancel) {}

  Result<LayoutReport> run() {
    AUTOGLM_RETURN_IF_ERROR(check());
    AUTOGLM_RETURN_IF_ERROR(writer_.write_file("config.json", model_.config.to_json(layout_.config(*args_, plain_))));
    AUTOGLM_RETURN_IF_ERROR(format::copy_small_files(model_.checkpoint.folder(), writer_.folder()));
    AUTOGLM_RETURN_IF_ERROR(for_each("writing", [&](const ModuleSpec& module) { return write(module); }));
    for (const std::string& name : model_.layout.others(model_.checkpoint)) {
      AUTOGLM_RETURN_IF_ERROR(writer_.add(name, model_.checkpoint, name));
    }
    AUTOGLM_RETURN_IF_ERROR(writer_.finish());
    AUTOGLM_ASSIGN_OR_RETURN(const auto written, format::Checkpoint::open(writer_.staging()));
    AUTOGLM_RETURN_IF_ERROR(
        for_each("reading back", [&](const ModuleSpec& module) { return compare(written, module); }));
    for (const std::string& name : model_.layout.others(model_.checkpoint)) {
      ++report_.checked;
      AUTOGLM_RETURN_IF_ERROR(compare_copy(written, name, {model_.checkpoint, name}, cancel_));
    }
    return report_;
  }

 private:
  Status refuse(const ModuleSpec& module, std::string_view what) const {
    return invalid_argument(fmt::format("{}: {}: {}", layout_.name(), module.name, what));
  }

  /// Every quantized matrix has one scheme, which the layout holds; `plain_` gets the other linears of blocks.
  Status check() {
    for (const ModuleSpec& module : model_.layout.modules()) {
      const format::QuantScheme* scheme = model_.scheme_of(module);
      const bool in_block = format::is_linear(module.role) && module.layer >= 0;
      if (scheme == nullptr) {
        for (const Part& part : parts_of(module)) {
          if (in_block) plain_.push_back(part.name);
        }
        continue;
      }
      if (!in_block) {
        return refuse(module, "is quantized, where the layout has linears of blocks alone; compress without it");
      }
      if (scheme->input_activations) return refuse(module, "its inputs are quantized too, which the layout cannot say");
      const QuantArgs& args = *scheme->weights;
      const format::Shape shape = {parts_of(module)[0].rows, module.shape[1]};
      if (const std::string what = layout_.refusal(args, shape); !what.empty()) return refuse(module, what);
      if (args_ && (args_->num_bits != args.num_bits || args_->symmetric != args.symmetric ||
                    args_->strategy != args.strategy || args_->group_size != args.group_size)) {
        return refuse(module, "has another scheme than the linears before it, where the layout has one for all");
      }
      args_ = args;
    }
    for (const std::string& name : model_.layout.others(model_.checkpoint)) {  // linears beside the decoder too
      if (name.ends_with(".weight") && model_.checkpoint.find(name)->shape.size() == 2) {
        plain_.push_back(name.substr(0, name.size() - std::string_view(".weight").size()));
      }
    }
    if (args_) return ok_status();
    return invalid_argument(
        fmt::format("{}: no matrix of the model is quantized; `autoglm compress -q int4` first, or "
                    "--format hf",
                    layout_.name()));
  }

  template <typename Work>
  Status for_each(const char* what, const Work& work) {
    const auto& modules = model_.layout.modules();
    Progress progress(what, std::ssize(modules));
    int64_t done = 0;
    for (const ModuleSpec& module : modules) {
      AUTOGLM_RETURN_IF_ERROR(cancel_.check());
      AUTOGLM_RETURN_IF_ERROR(work(module));
      progress.update(++done);
    }
    return ok_status();
  }

  Status copy(const std::string& name, const std::string& source, const Part& part) {
    return writer_.add(name, model_.checkpoint, source, {.first_row = part.first, .rows = part.rows, .finite = true});
  }

  Status write(const ModuleSpec& module) {
    for (const Part& part : parts_of(module)) {
      if (module.has_bias) AUTOGLM_RETURN_IF_ERROR(copy(part.name + ".bias", module.bias_name(), part));
      if (model_.scheme_of(module) != nullptr) {
        AUTOGLM_RETURN_IF_ERROR(write_quantized(module, part));
      } else {
        AUTOGLM_RETURN_IF_ERROR(copy(weight_name(module, part), module.weight_name(), part));
      }
    }
    return ok_status();
  }

  /// kRouterCorrection's name is the whole of it.
  static std::string weight_name(const ModuleSpec& module, const Part& part) {
    return part.name == module.name ? module.weight_name() : part.name + ".weight";
  }

  Status write_quantized(const ModuleSpec& module, const Part& part) {
    AUTOGLM_ASSIGN_OR_RETURN(const auto weight, format::decode_rows(model_, module, part.first, part.rows));
    model_.release_weight(module);
    for (const auto& tensor : layout_.encode(weight, part.name)) {
      if (format::first_non_finite(tensor.dtype, tensor.bytes) >= 0) {
        return bad_input(fmt::format("tensor {} has a scale beyond what FP16 holds", format::display(tensor.name)));
      }
      AUTOGLM_RETURN_IF_ERROR(writer_.add(tensor.name, tensor.dtype, tensor.shape, tensor.bytes));
    }
    ++report_.matrices;
    return ok_status();
  }

  Status compare(const format::Checkpoint& written, const ModuleSpec& module) {
    const auto compare_rows = [&](const std::string& name, const std::string& source, const Part& part) {
      ++report_.checked;
      return compare_copy(written, name, {model_.checkpoint, source, part.first}, cancel_);
    };
    for (const Part& part : parts_of(module)) {
      if (module.has_bias) AUTOGLM_RETURN_IF_ERROR(compare_rows(part.name + ".bias", module.bias_name(), part));
      if (model_.scheme_of(module) != nullptr) {
        AUTOGLM_RETURN_IF_ERROR(compare_quantized(written, module, part));
      } else {
        AUTOGLM_RETURN_IF_ERROR(compare_rows(weight_name(module, part), module.weight_name(), part));
      }
    }
    return ok_status();
  }

  Status compare_quantized(const format::Checkpoint& written, const ModuleSpec& module, const Part& part) {
    std::vector<format::StoredTensor> tensors;
    for (const std::string_view member : layout_.members()) {
      const std::string name = fmt::format("{}.{}", part.name, member);
      AUTOGLM_ASSIGN_OR_RETURN(const auto bytes, written.bytes(name));
      const format::TensorInfo& info = *written.find(name);
      tensors.push_back(
          {.name = name, .dtype = info.dtype, .shape = info.shape, .bytes = {bytes.begin(), bytes.end()}});
      written.release(name);
      ++report_.checked;
    }
    const QuantArgs& args = *model_.scheme_of(module)->weights;
    const int64_t cols = module.shape[1], step = std::max<int64_t>(1, kPieceValues / cols);
    std::vector<float> found, expected;
    Difference difference;
    for (int64_t first = 0; first < part.rows; first += step) {
      AUTOGLM_RETURN_IF_ERROR(cancel_.check());
      const int64_t count = std::min(step, part.rows - first);
      AUTOGLM_ASSIGN_OR_RETURN(const auto weight, format::decode_rows(model_, module, part.first + first, count));
      found.resize(weight.values.size());
      expected.resize(weight.values.size());
      format::dequantize(weight, expected);
      layout_.decode(tensors, args, {part.rows, cols}, first, found);
      difference += difference_of(found, expected);
    }
    model_.release_weight(module);
    constexpr double kMost = 1e-3;  // of rounding a scale to FP16
    if (!difference.finite || difference.share() > kMost) {
      return bad_input(fmt::format("{}: a scale is beyond what FP16 holds well: weights move by {:.1e} of the largest",
                                   part.name, difference.share()));
    }
    report_.rounding = std::max(report_.rounding, difference.share());
    return ok_status();
  }

  const format::StoredModel& model_;
  const WeightLayout& layout_;
  format::CheckpointWriter& writer_;
  CancelToken& cancel_;
  std::optional<QuantArgs> args_;
  std::vector<std::string> plain_;
  LayoutReport report_;
};

}  // namespace

namespace {

/// Values [out, groups], or one for the whole matrix, as [groups, out].
template <typename T>
std::vector<T> by_group(const std::vector<T>& values, const format::QuantizedWeight& weight) {
  const int64_t groups = weight.args.groups(weight.cols);
  const bool whole = weight.args.strategy == format::Strategy::kTensor;
  std::vector<T> out;
  out.reserve(static_cast<size_t>(groups * weight.rows));
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t r = 0; r < weight.rows; ++r) out.push_back(values[static_cast<size_t>(whole ? 0 : r * groups + g)]);
  }
  return out;
}

}  // namespace

std::string refused_groups(const QuantArgs& args, const format::Shape& shape, std::span<const int> known) {
  if (args.strategy != format::Strategy::kGroup || args.group_size == shape[1]) return "";
  if (std::find(known.begin(), known.end(), args.group_size) != known.end()) return "";
  return fmt::format("groups of {}, where readers know {} and whole rows", args.group_size, fmt::join(known, ", "));
}

std::vector<int8_t> zeros_by_group(const format::QuantizedWeight& weight) {
  if (!weight.args.symmetric) return by_group(weight.zero_points, weight);
  return std::vector<int8_t>(static_cast<size_t>(weight.args.groups(weight.cols) * weight.rows));
}

format::StoredTensor scales_by_group(const format::QuantizedWeight& weight, std::string_view module) {
  const std::vector<float> lying = by_group(weight.scales, weight);
  format::StoredTensor out{.name = fmt::format("{}.scales", module),
                           .dtype = DType::kF16,
                           .shape = {weight.args.groups(weight.cols), weight.rows}};
  out.bytes.resize(lying.size() * 2);
  format::from_float(DType::kF16, lying, out.bytes);
  return out;
}

Result<LayoutReport> write_layout(const format::StoredModel& model, const WeightLayout& layout,
                                  format::CheckpointWriter& writer, CancelToken& cancel) {
  return LayoutExport(model, layout, writer, cancel).run();
}

}  // namespace autoglm::exports
