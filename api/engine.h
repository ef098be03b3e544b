#pragma once
/// Options in words ("cuda:0", "bf16", 2 threads) turned into what the decoder takes.
#include <string>

#include "compress/model/decoder.h"
#include "core/base/status.h"

namespace autoglm::api {

/// Sets LibTorch's thread counts for this process; 0: all cores. Returns the count in force.
int use_threads(int threads);

/// kInvalidArgument: a device or compute type that is unknown or absent here.
Result<model::DecoderOptions> decoder_options(const std::string& device, const std::string& compute);

/// Bytes that may be used in all: `asked`, or what the machine (its control group included) has for this process when
/// 0.
int64_t memory_limit(int64_t asked);

/// kInvalidArgument: `value` of an option is not in [low, high].
Status check_range(const char* option, int64_t value, int64_t low, int64_t high);

}  // namespace autoglm::api
