#pragma once
/// Traces: what is known of the modules of one block beside their tensors. Private to the room.
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "compress/calibrate/statistics_file.h"
#include "compress/pass/journal.h"
#include "compress/pass/pipeline.h"
#include "core/base/status.h"
#include "core/format/folds.h"

namespace autoglm::pass {

struct Traces {
  format::Folds folds;
  calibrate::StatisticsFile statistics;
  std::vector<TensorReport> reports;   ///< in the order of writing
  std::vector<std::string> corrected;  ///< modules whose bias is another one

  /// Reads what `write` and `record` left in a part. kBadInput: it is damaged.
  static Result<Traces> read(const Journal::Part& part, const format::TensorLayout& layout,
                             const format::ModelConfig& config);
  Status write(const std::filesystem::path& folder) const;  ///< folds and statistics, where there are any
  nlohmann::json record() const;                            ///< the rest
};

}  // namespace autoglm::pass
