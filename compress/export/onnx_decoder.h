#pragma once
/// The decoder as an ONNX graph: every family, with a cache whose inputs and outputs are named as Optimum names them.
///
///   input_ids, position_ids   INT64 [batch, sequence]
///   attention_mask            INT64 [batch, past + sequence]: 0 where there is padding
///   past_key_values.N.key, past_key_values.N.value    FLOAT [batch, kv heads, past, head]
///   logits                    FLOAT [batch, sequence, vocabulary]
///   present.N.key, present.N.value                    FLOAT [batch, kv heads, past + sequence, head]
///
/// With fused attention (onnxruntime's GroupQueryAttention) the cache may have more room than attention_mask has
/// positions, and is then filled in place; several sequences take their prompts in one step.
#include "compress/export/onnx_graph.h"
#include "compress/export/onnx_weights.h"
#include "core/base/status.h"
#include "core/format/stored_model.h"

namespace autoglm::exports {

/// kInvalidArgument: rotary frequencies that change with the length of a sequence.
Status check_onnx_decoder(const format::ModelConfig& config);

/// Whether attention is onnxruntime's own.
bool has_fused_attention(const format::ModelConfig& config, const OnnxTarget& target);

/// Adds the whole decoder of a model that was checked.
void add_onnx_decoder(const format::StoredModel& model, OnnxWeights& weights, OnnxGraph& graph);

}  // namespace autoglm::exports
