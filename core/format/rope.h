#pragma once
/// Rotary position embedding (Su et al. 2021, arXiv 2104.09864) and its published context extensions, with the
/// parameters of transformers' `rope_parameters` and the same frequencies.
///
/// The inverse frequency of pair i by rope_type, with f_i = theta^(-2i / rotary_dim):
///   default   f_i
///   linear    f_i / factor (position interpolation, arXiv 2306.15595)
///   dynamic   f_i of a theta that grows with sequences longer than max_position_embeddings (NTK-aware scaling)
///   yarn      between f_i / factor and f_i by wavelength; cos and sin scaled too (arXiv 2309.00071)
///   llama3    f_i for short wavelengths, f_i / factor for long ones, a ramp between them
///   longrope  f_i / short_factor_i, long_factor_i for long sequences; cos and sin scaled too (arXiv 2402.13753)
#include <cstdint>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/base/status.h"
#include "core/format/model_config.h"

namespace autoglm::format {

/// The angle per position of each rotated pair: rotary_dim / 2 values, in radians. `sequence_length` (tokens so far,
/// prompt included) matters to `dynamic` and `longrope` alone; 0 stands for a sequence within the trained length.
/// `config` comes from ModelConfig::parse.
std::vector<double> rope_inverse_frequencies(const ModelConfig& config, int64_t sequence_length = 0);

/// Whether the frequencies are the same for sequences of every length: not so for `dynamic` and `longrope`.
bool has_fixed_frequencies(const ModelConfig& config);

/// What cos and sin are multiplied by: 1 except for yarn and longrope.
double rope_attention_scaling(const ModelConfig& config);

/// Reads the rotary parameters of `object` (config.json, or its text_config), old layout (rope_theta, rope_scaling,
/// partial_rotary_factor, chatglm's rope_ratio) or new (rope_parameters), into `config`, whose plain fields are read.
/// `default_partial` is the family's share of rotated dimensions. kBadInput names the key.
Status read_rope(const nlohmann::ordered_json& object, double default_partial, ModelConfig& config);

}  // namespace autoglm::format
