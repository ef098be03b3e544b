#include "compress/export/torchscript/torchscript.h"

#include <fmt/format.h>

#include <algorithm>

#include "compress/export/torchscript/script_archive.h"
#include "compress/export/torchscript/script_classes.h"
#include "compress/export/torchscript/script_decoder.h"
#include "compress/export/torchscript/script_weights.h"
#include "compress/tensor/bridge.h"
#include "core/format/rope.h"
#include "core/format/small_files.h"
#include "core/format/weight_rows.h"

namespace autoglm::exports {

namespace {

/// Reads all integers, scales and zero points as the formats' own decoder does, which names what is out of range.
Status check_integers(const format::StoredModel& model, CancelToken& cancel) {
  constexpr int64_t kPieceValues = 1 << 22;
  for (const format::ModuleSpec& module : model.layout.modules()) {
    if (model.scheme_of(module) == nullptr) continue;
    const int64_t rows = module.shape[0], step = std::max<int64_t>(1, kPieceValues / module.shape[1] / 32) * 32;
    for (int64_t first = 0; first < rows; first += step) {
      AUTOGLM_RETURN_IF_ERROR(cancel.check());
      AUTOGLM_RETURN_IF_ERROR(format::decode_rows(model, module, first, std::min(step, rows - first)).status());
      model.release_weight(module);
    }
  }
  return ok_status();
}

}  // namespace

Result<TorchScriptReport> write_torchscript(const format::StoredModel& model, format::FolderWriter& folder,
                                            CancelToken& cancel) {
  if (!format::has_fixed_frequencies(model.config)) {
    return invalid_argument(fmt::format(
        "torchscript: rope_type {} has frequencies that change with the length of a sequence, which is not written",
        model.config.rope_type));
  }
  return tensor::guarded([&]() -> Result<TorchScriptReport> {
    ScriptClasses classes;
    AUTOGLM_RETURN_IF_ERROR(check_integers(model, cancel));
    AUTOGLM_ASSIGN_OR_RETURN(ScriptWeights weights, ScriptWeights::plan(model, classes));
    const torch::jit::Module decoder = script_decoder(model, weights, classes);
    TorchScriptReport report{.quantized = weights.quantized(),
                             .integer_products = weights.integer_products(),
                             .left_out = std::ssize(model.layout.others(model.checkpoint)),
                             .checked = std::ssize(weights.tensors())};
    int64_t expected = 0;
    for (const auto& [data, tensor] : weights.tensors()) expected += std::ssize(tensor.bytes);
    AUTOGLM_RETURN_IF_ERROR(format::copy_small_files(model.checkpoint.folder(), folder));
    const auto fill = [&](const format::FileDescriptor& fd, const std::filesystem::path& shown) -> Status {
      AUTOGLM_ASSIGN_OR_RETURN(const ScriptArchive archive,
                               write_archive(decoder, weights.tensors(), model.checkpoint, fd, shown, cancel));
      report.bytes = archive.bytes;
      return check_archive(archive, weights.tensors(), model.checkpoint, fd, shown, cancel);
    };
    AUTOGLM_RETURN_IF_ERROR(folder.with_file("model.pt", expected, fill));
    AUTOGLM_RETURN_IF_ERROR(folder.write_file("config.json", model.config.to_json({})));
    return report;
  });
}

}  // namespace autoglm::exports
