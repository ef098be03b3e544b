#include "compress/quant/reconstruct.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "compress/calibrate/fisher.h"
#include "compress/calibrate/hidden_states.h"
#include "compress/quant/schedule.h"
#include "compress/quant/trained.h"
#include "compress/tensor/bridge.h"
#include "core/base/progress.h"
#include "core/format/checkpoint_writer.h"
#include "core/format/rewrite.h"

namespace autoglm::quant {
namespace {

using calibrate::Fisher;
using calibrate::HiddenStates;

/// Of the states of both models and of the matrices, each; while these are measured, of the states that it takes.
int64_t third(const ReconstructOptions& options) { return options.state_bytes / 3; }

calibrate::FisherOptions fisher_options(const ReconstructOptions& options) {
  return {.seed = options.seed, .memory_limit = third(options), .scratch = options.scratch};
}

class Reconstruction {
 public:
  Reconstruction(const model::Decoder& source, const model::Decoder& staged,
                 const std::vector<eval::Tokens>& calibration, const ReconstructOptions& options, CancelToken& cancel)
      : source_(source),
        original_{&source, {}},
        staged_(staged),
        options_(options),
        cancel_(cancel),
        split_(calibration, options.seed) {}

  Result<std::vector<ReconstructedBlock>> run(const std::vector<eval::Tokens>& calibration) {
    if (calibration.size() < 2) return invalid_argument("reconstruction needs at least two calibration sequences");
    AUTOGLM_ASSIGN_OR_RETURN(original_.folds,
                             format::Folds::read(staged_.checkpoint().folder(), staged_.layout(), staged_.config()));
    AUTOGLM_ASSIGN_OR_RETURN(fisher_, Fisher::measure(source_, calibration, fisher_options(options_), cancel_));
    AUTOGLM_RETURN_IF_ERROR(embed(calibration));
    const int64_t layers = staged_.config().num_hidden_layers;
    Progress progress("reconstructing", layers * options_.steps);
    std::vector<ReconstructedBlock> out;
    for (int64_t layer = 0; layer < layers; ++layer) {
      AUTOGLM_RETURN_IF_ERROR(run_source(layer));
      AUTOGLM_ASSIGN_OR_RETURN(matrix_, fisher_.matrix(layer));
      AUTOGLM_ASSIGN_OR_RETURN(TrainedBlock block, TrainedBlock::load(staged_, layer, &original_, cancel_));
      if (block.quantized()) {
        AUTOGLM_ASSIGN_OR_RETURN(ReconstructedBlock done, train_or_restore(layer, block, progress));
        out.push_back(done);
      }
      AUTOGLM_RETURN_IF_ERROR(carry_on(layer));
    }
    return out.empty() ? invalid_argument("reconstruction: no block has quantized weights to be trained")
                       : Result<std::vector<ReconstructedBlock>>(std::move(out));
  }

 private:
  Status embed(const std::vector<eval::Tokens>& calibration) {
    std::vector<int64_t> lengths;
    for (const eval::Tokens& sequence : calibration) lengths.push_back(static_cast<int64_t>(sequence.size()));
    rotary_ = staged_.rotary(*std::max_element(lengths.begin(), lengths.end()));
    for (auto [decoder, states] : {std::pair(&source_, &wanted_), std::pair(&staged_, &states_)}) {
      AUTOGLM_ASSIGN_OR_RETURN(*states, HiddenStates::create(lengths, source_.config().hidden_size, at::kFloat,
                                                             third(options_), options_.scratch));
      for (size_t i = 0; i < calibration.size(); ++i) {
        AUTOGLM_RETURN_IF_ERROR(cancel_.check());
        AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor embedded, decoder->embed(calibration[i]));
        AUTOGLM_RETURN_IF_ERROR(states->put(static_cast<int64_t>(i), embedded));
      }
    }
    return ok_status();
  }

  Status run_block(const model::Block& block, HiddenStates& states) {
    const at::NoGradGuard no_grad;
    model::ForwardOptions options;
    options.cancel = &cancel_;
    for (int64_t i = 0; i < states.sequences(); ++i) {
      AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor input, states.get(i, 1));
      const at::Tensor output = model::forward(staged_.config(), block, rotary_, input, options);
      AUTOGLM_RETURN_IF_ERROR(cancel_.check());
      AUTOGLM_RETURN_IF_ERROR(states.put(i, output));
    }
    return ok_status();
  }

  Status run_source(int64_t layer) {
    AUTOGLM_ASSIGN_OR_RETURN(const model::Block block, source_.load_block(layer, &cancel_));
    return run_block(block, wanted_);
  }

  /// By what the files hold.
  Status carry_on(int64_t layer) {
    AUTOGLM_ASSIGN_OR_RETURN(const model::Block block, staged_.load_block(layer, &cancel_));
    return run_block(block, states_);
  }

  /// Trains a block, or takes what it became from the journal.
  Result<ReconstructedBlock> train_or_restore(int64_t layer, TrainedBlock& block, Progress& progress) {
    if (options_.journal == nullptr) return train(layer, block, progress);
    const std::string part = fmt::format("trained-{:05}", layer);
    if (!options_.journal->has(part)) {
      AUTOGLM_ASSIGN_OR_RETURN(ReconstructedBlock done, train(layer, block, progress));
      AUTOGLM_RETURN_IF_ERROR(keep(part, done, block));
      return done;
    }
    AUTOGLM_ASSIGN_OR_RETURN(const pass::Journal::Part found, options_.journal->read(part, &cancel_));
    for (const std::string& name : found.tensors.names()) {
      AUTOGLM_ASSIGN_OR_RETURN(const auto bytes, found.tensors.bytes(name));
      AUTOGLM_RETURN_IF_ERROR(format::rewrite_tensor(staged_.checkpoint(), name, bytes));
      found.tensors.release(name);
    }
    try {
      const nlohmann::json& record = found.record;
      return ReconstructedBlock{layer, record.at("before"), record.at("after"), record.at("kept")};
    } catch (const nlohmann::json::exception&) {
      return found.damaged();
    }
  }

  /// What the files hold of the block now.
  Status keep(const std::string& part, const ReconstructedBlock& done, const TrainedBlock& block) {
    AUTOGLM_ASSIGN_OR_RETURN(format::CheckpointWriter writer, options_.journal->begin(part, &cancel_));
    for (const NewValues& values : block.stored()) {
      AUTOGLM_RETURN_IF_ERROR(writer.add(values.name, staged_.checkpoint(), values.name));
    }
    const nlohmann::json record = {{"before", done.error_before}, {"after", done.error_after}, {"kept", done.kept}};
    return options_.journal->finish(writer, record).status();
  }

  Result<ReconstructedBlock> train(int64_t layer, TrainedBlock& block, Progress& progress) {
    ReconstructedBlock out{.layer = layer};
    AUTOGLM_ASSIGN_OR_RETURN(out.error_before, error(block));
    const auto steps = static_cast<double>(options_.steps);
    std::vector<std::vector<size_t>> batches;
    for (int64_t step = 0, epoch = 0; step < options_.steps; ++step) {
      progress.update(layer * options_.steps + step, fmt::format("layer {}", layer + 1));
      AUTOGLM_RETURN_IF_ERROR(cancel_.check());
      if (batches.empty()) batches = split_.batches(options_.batch_tokens, epoch++);
      AUTOGLM_RETURN_IF_ERROR(
          descend(block, batches.back(), step + 1, cosine((static_cast<double>(step) + 0.5) / steps)));
      batches.pop_back();
    }
    AUTOGLM_ASSIGN_OR_RETURN(out.error_after, error(block));
    out.kept = out.error_after < out.error_before;  // false for NaN too
    if (out.kept) AUTOGLM_RETURN_IF_ERROR(write_over(staged_.checkpoint(), block.stored()));
    return out;
  }

  /// One sequence after another, so that no more than one is held for the way back.
  Status descend(TrainedBlock& block, const std::vector<size_t>& sequences, int64_t step, double share) {
    AUTOGLM_RETURN_IF_ERROR(block.descend([&](const model::Block& built) -> Status {
      for (const size_t i : sequences) {
        AUTOGLM_RETURN_IF_ERROR(cancel_.check());
        AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor loss, cost(built, i));
        if (!std::isfinite(loss.item<double>())) return bad_input("reconstruction: a block gives NaN or infinity");
        (loss / static_cast<double>(sequences.size())).backward();
      }
      return ok_status();
    }));
    const at::NoGradGuard no_grad;
    block.update({options_.rate * share, options_.rounding_rate * share}, step);
    return ok_status();
  }

  /// What the block's output costs on one sequence.
  Result<at::Tensor> cost(const model::Block& block, size_t sequence) const {
    AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor input, states_.get(static_cast<int64_t>(sequence), 1));
    AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor wanted, wanted_.get(static_cast<int64_t>(sequence), 1));
    return Fisher::cost(matrix_, model::forward(staged_.config(), block, rotary_, input), wanted);
  }

  /// On the sequences that are held back.
  Result<double> error(const TrainedBlock& trained) {
    const at::NoGradGuard no_grad;
    const model::Block block = trained.build();
    double sum = 0, tokens = 0;
    for (const size_t i : split_.held_back()) {
      AUTOGLM_RETURN_IF_ERROR(cancel_.check());
      AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor one, cost(block, i));
      const auto length = static_cast<double>(states_.lengths()[i]);
      sum += length * one.item<double>();
      tokens += length;
    }
    return sum / tokens;
  }

  const model::Decoder& source_;
  Original original_;
  const model::Decoder& staged_;
  const ReconstructOptions& options_;
  CancelToken& cancel_;
  TrainingSplit split_;
  model::Rotary rotary_;
  HiddenStates states_;  ///< what the compressed blocks give
  HiddenStates wanted_;  ///< what the source's give
  Fisher fisher_;
  at::Tensor matrix_;  ///< of the block at hand
};

}  // namespace

Result<std::vector<ReconstructedBlock>> reconstruct(const model::Decoder& source, const model::Decoder& staged,
                                                    const std::vector<eval::Tokens>& calibration,
                                                    const ReconstructOptions& options, CancelToken& cancel) {
  return tensor::guarded([&] { return Reconstruction(source, staged, calibration, options, cancel).run(calibration); });
}

int64_t reconstruct_bytes(const model::Decoder& source, int64_t sequences, int64_t length,
                          const ReconstructOptions& options) {
  const int64_t states =
      2 * std::min(third(options), sequences * length * source.config().hidden_size * int64_t{4}) +
      Fisher::matrix_bytes(source, fisher_options(options));
  // Positions, Adam's sums, what rounding keeps for gradients, and these.
  const int64_t training = 10 * source.float_block_bytes() + states + source.backward_bytes(length);
  return std::max(training, Fisher::bytes(source, sequences, length, fisher_options(options)));
}

double reconstruct_flops(const model::Decoder& source, int64_t sequences, int64_t length,
                         const ReconstructOptions& options) {
  return 3 * static_cast<double>(options.steps * options.batch_tokens) * source.block_flops() +
         Fisher::flops(source, sequences, length, fisher_options(options));
}

}  // namespace autoglm::quant
