#pragma once
/// Repair: what is done about modules that lost too much.
#include <optional>
#include <vector>

#include "compress/pass/pipeline.h"
#include "compress/pass/scheme.h"

namespace autoglm::pass {

/// The scheme with the next larger width that files hold (3, 4, 5, 6, 8 bits), all else the same; none beyond 8 bits.
std::optional<Scheme> more_bits(const Scheme& scheme);

/// The share of its outputs (by energy, over calibration inputs) that a module lost; without inputs, of its weights.
double share_lost(const TensorReport& report);

/// Warns, in one line, of modules that lost more than a tenth.
void warn_of_losses(const std::vector<TensorReport>& reports);

}  // namespace autoglm::pass
