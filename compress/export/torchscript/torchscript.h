#pragma once
/// torchscript: an artifact as a TorchScript program with its weights, for torch::jit::load in C++ and torch.jit.load
/// in Python. PyTorch calls the format deprecated; it is for programs that load it today.
///
/// The folder: model.pt, config.json and the tokenizer's files. The program is compiled from source, not traced: batch,
/// length and cache are free.
///
///   forward(input_ids: Tensor,                    INT64 [batch, sequence]
///           cache: List[Tensor],                  [], or what the call before returned
///           attention_mask: Optional[Tensor],     [batch, past + sequence]: 0 where there is padding
///           position_ids: Optional[Tensor],       INT64 [batch, sequence]; None: counted by the mask
///           logits_to_keep: int = 0)              positions from the end that logits are wanted of; 0: all
///     -> (logits FLOAT [batch, sequence, vocabulary], cache: key and value FLOAT [batch, kv heads, total, head] of
///     each layer)
///
/// Integers and scales are the artifact's own bytes and become floats where they are used; W8A8 with scales per token
/// multiplies integers. All else is computed in float32.
#include <cstdint>

#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/format/folder_writer.h"
#include "core/format/stored_model.h"

namespace autoglm::exports {

struct TorchScriptReport {
  int64_t bytes = 0;             ///< of model.pt
  int64_t quantized = 0;         ///< matrices that are stored as integers
  int64_t integer_products = 0;  ///< of those, the ones that are multiplied as integers
  int64_t left_out = 0;          ///< tensors that are no part of the decoder: vision tower, MTP layers
  int64_t checked = 0;           ///< tensors read back from the file, the artifact's bytes
};

/// Streams `model` into `folder` and reads it back; the caller commits. Memory: the largest tensor, mapped, and a few
/// MB. kInvalidArgument: rotary frequencies that change with the length of a sequence. kBadInput: activations quantized
/// in a way that is not written, or a tensor that is missing, does not fit or is not finite. kResourceExhausted,
/// kCancelled.
Result<TorchScriptReport> write_torchscript(const format::StoredModel& model, format::FolderWriter& folder,
                                            CancelToken& cancel);

}  // namespace autoglm::exports
