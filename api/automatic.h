#pragma once
/// Automatic bits: what fits a budget and loses least, chosen from measured sensitivities.
#include <filesystem>
#include <string>
#include <vector>

#include "api/settings.h"
#include "compress/model/decoder.h"
#include "compress/pass/registry.h"
#include "compress/search/allocation.h"
#include "compress/search/sensitivity.h"
#include "compress/search/swaps.h"
#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/eval/scorer.h"

namespace autoglm::api {

struct Automatic {
  search::Sensitivity sensitivity;
  search::Profile profile = search::Profile::kTransformers;
  bool measured = false;  // now, rather than read
};

/// Sensitivities of `source` (which computes in fp32): those of the file `settings.scores` where there is one, else
/// measured now and written there. kBadInput: that file cannot be read as scores. kInvalidArgument: its scores are of
/// another model, text, seed or recipe. kResourceExhausted: memory, or the file cannot be written (found before the
/// work).
Result<Automatic> measure_for_budget(const Settings& settings, const model::Decoder& source,
                                     const pass::Registry& registry, const std::vector<eval::Tokens>& calibration,
                                     CancelToken& cancel);

/// Moves bits between groups by measurement (search/swaps.h), `settings.swaps` rounds, with three artifacts at a time
/// in the folder `scratch`. `recipe`: before formats were chosen. kResourceExhausted: memory, disk.
Result<search::Swapped> swap_formats(const Settings& settings, const pass::Recipe& recipe, const model::Decoder& source,
                                     const pass::Registry& registry, const Automatic& automatic,
                                     const search::Allocation& start, int64_t bytes,
                                     const std::vector<eval::Tokens>& calibration, const std::filesystem::path& scratch,
                                     CancelToken& cancel);

/// Bytes of tensors that the settings' budget allows, or for a contract where to begin. Settles `automatic.profile`:
/// without one in the settings, transformers' unless a budget is too small for it: then any, of which it warns.
/// kInvalidArgument: the budget is smaller than what is possible.
Result<int64_t> first_budget(const Settings& settings, Automatic& automatic);

}  // namespace autoglm::api
