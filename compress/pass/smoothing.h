#pragma once
/// Smoothing: has a smoother choose the scales of a block, and folds them into it. Private to the room.
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "compress/calibrate/collector.h"
#include "compress/model/block.h"
#include "compress/model/decoder.h"
#include "compress/pass/block_stages.h"
#include "compress/pass/resolve.h"
#include "compress/pass/smoother.h"
#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/format/folds.h"

namespace autoglm::pass {

class Smoothing {
 public:
  /// All must outlive it.
  Smoothing(const model::Decoder& source, const Resolved& resolved, Smoother& smoother)
      : source_(source), resolved_(resolved), smoother_(smoother) {}

  /// Folds into `block`, as it was loaded, what suits the states that `stages` holds. `decisions`: of that layer.
  /// Returns what was folded, by the names that are written.
  Result<format::Folds> run(model::Block& block, const std::vector<const Decision*>& decisions, BlockStages& stages,
                            CancelToken& cancel);

  /// Folds into `block`, as it was loaded, what `run` folded before.
  void repeat(model::Block& block, const format::Folds& folds) const;

  /// What was done to the columns of a module of the last block, for the report; "" for nothing.
  std::string note(const std::string& module) const;

 private:
  /// A fold point as the block has it and as it will be written.
  struct Place {
    format::FoldPoint source, written;
  };
  std::vector<Place> places(int64_t layer) const;
  void index(const std::vector<const Decision*>& decisions);
  Result<calibrate::StatisticsByLinear> collect(model::Block& block, const std::vector<Place>& places,
                                                BlockStages& stages, CancelToken& cancel) const;
  Status fold_at(model::Block& block, const Place& place, const calibrate::StatisticsByLinear& statistics,
                 format::Folds& folds, CancelToken& cancel);

  const model::Decoder& source_;
  const Resolved& resolved_;
  Smoother& smoother_;
  std::map<std::string, const Decision*> by_module_, by_source_;
  std::map<std::string, std::string> notes_;
};

}  // namespace autoglm::pass
