#pragma once
/// Pictures of how bits were chosen: a table for a terminal and an SVG for a browser.
#include <string>

#include "core/eval/report.h"

namespace autoglm::eval {

/// Stored bits per weight: a line for each layer, a column for each kind of matrix; then what lies outside the layers.
/// "16.0" stands for what was kept as bf16.
std::string bits_table(const AutomaticBits& bits);

/// The same as bars, beside the estimated loss over the size, with what was chosen and what was measured. Needs no
/// script, font or file of its own; names from files are escaped.
std::string bits_svg(const AutomaticBits& bits);

}  // namespace autoglm::eval
