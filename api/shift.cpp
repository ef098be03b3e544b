#include "compress/pass/shift.h"

#include <autoglm/calibrate.h>
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "api/engine.h"
#include "api/model_source.h"
#include "api/self_text.h"
#include "api/texts.h"
#include "compress/quant/register.h"
#include "compress/tensor/bridge.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/eval/calibration_set.h"
#include "core/eval/dataset.h"
#include "core/eval/metrics.h"
#include "core/eval/table.h"
#include "core/format/display.h"
#include "core/tokenizer/chat_template.h"
#include "core/tokenizer/tokenizer.h"

namespace autoglm {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr double kUnlike = 0.5;  // excess of error from which a layer counts as calibrated on other text
constexpr size_t kWorstShown = 5;

// How two columns of a comparison go together.
struct Correlation {
  double pooled = 0;       // over all inputs and sets
  double across_sets = 0;  // mean over inputs of the correlation over sets
};

template <typename Distance>
Correlation correlate(const std::vector<pass::SetShift>& sets, const Distance& distance) {
  Correlation out;
  std::vector<double> all_distances, all_errors;
  const size_t inputs = sets.front().inputs.size();
  for (size_t i = 0; i < inputs; ++i) {
    std::vector<double> distances, errors;
    for (const pass::SetShift& set : sets) {
      distances.push_back(distance(set.inputs[i]));
      errors.push_back(set.inputs[i].excess());
    }
    out.across_sets += eval::rank_correlation(distances, errors) / static_cast<double>(inputs);
    all_distances.insert(all_distances.end(), distances.begin(), distances.end());
    all_errors.insert(all_errors.end(), errors.begin(), errors.end());
  }
  out.pooled = eval::rank_correlation(all_distances, all_errors);
  return out;
}

double mean_of(const pass::SetShift& set, double (*value)(const pass::InputShift&)) {
  double sum = 0;
  for (const pass::InputShift& input : set.inputs) sum += value(input);
  return set.inputs.empty() ? 0 : sum / static_cast<double>(set.inputs.size());
}

double distance_of(const pass::InputShift& input) { return input.distance; }
double channel_distance_of(const pass::InputShift& input) { return input.channel_distance; }
double range_ratio_of(const pass::InputShift& input) { return input.range_ratio; }
double excess_of(const pass::InputShift& input) { return input.excess(); }

// The texts of one comparison, and what came of it.
class ShiftReport {
 public:
  ShiftReport(const ShiftOptions& options, CancelToken& cancel) : options_(options), cancel_(cancel) {}

  Result<CalibrationOutcome> run() {
    AUTOGLM_RETURN_IF_ERROR(check());
    api::use_threads(options_.threads);
    AUTOGLM_ASSIGN_OR_RETURN(model_, api::find_model(options_.model, cancel_));
    AUTOGLM_ASSIGN_OR_RETURN(const auto engine, api::decoder_options("cpu", "fp32"));
    AUTOGLM_ASSIGN_OR_RETURN(const model::Decoder source, model::Decoder::open(model_, engine));
    AUTOGLM_RETURN_IF_ERROR(read_texts(source));
    quant::register_quantizers(registry_);
    AUTOGLM_RETURN_IF_ERROR(fit_memory(source));
    AUTOGLM_ASSIGN_OR_RETURN(const auto sets,
                             pass::measure_shift(source, registry_, sets_, evaluation_, how_, cancel_));
    warn_of(sets);
    return CalibrationOutcome{to_json(sets).dump(2, ' ', false, Json::error_handler_t::replace), to_text(sets)};
  }

 private:
  Status check() {
    if (options_.calibration.empty()) return invalid_argument("no text given; name what would be calibrated on");
    if (options_.evaluation.empty()) {
      return invalid_argument("nothing to compare with: give --eval-dataset, text that the model will be used on");
    }
    AUTOGLM_RETURN_IF_ERROR(api::check_range("--samples", options_.samples, 1, eval::kMaxSetSamples));
    AUTOGLM_RETURN_IF_ERROR(
        api::check_range("--length", options_.length, eval::kShortestSequence, eval::kMaxSetLength));
    AUTOGLM_RETURN_IF_ERROR(api::check_range("--threads", options_.threads, 0, 1024));
    std::error_code error;
    how_.scratch = fs::temp_directory_path(error);
    if (error) return bad_input("TMPDIR: no folder to keep states in: " + error.message());
    auto scheme = pass::Scheme::parse(options_.quantization);
    if (!scheme.ok()) return scheme.status().with_context("--quantization");
    if (scheme->cast || scheme->activations) {
      return invalid_argument("--quantization: only weight-only integers can be compared; use int4 or the like");
    }
    how_.scheme = *scheme;
    return ok_status();
  }

  Status read_texts(const model::Decoder& source) {
    const int64_t most = source.config().max_position_embeddings;
    length_ = most > 0 ? std::min(options_.length, most) : options_.length;
    AUTOGLM_ASSIGN_OR_RETURN(tokenizer_, tokenizer::Tokenizer::load(model_));
    AUTOGLM_ASSIGN_OR_RETURN(evaluation_, read_text(source, options_.evaluation));
    for (const std::string& text : options_.calibration) {
      AUTOGLM_ASSIGN_OR_RETURN(auto set, read_text(source, text));
      sets_.push_back(std::move(set));
    }
    return ok_status();
  }

  Result<pass::TextSet> read_text(const model::Decoder& source, const std::string& text) {
    AUTOGLM_ASSIGN_OR_RETURN(auto sequences, read_sequences(source, text));
    return pass::TextSet{text, std::move(sequences)};
  }

  Result<std::vector<eval::Tokens>> read_sequences(const model::Decoder& source, const std::string& text) {
    if (text == api::kSelf) {
      return api::write_self_text(source, *tokenizer_, {options_.samples, length_, options_.seed, options_.max_ram},
                                  cancel_);
    }
    if (eval::is_calibration_set(text)) {
      return api::read_set(text, *tokenizer_, source.config().vocab_size, options_.samples);
    }
    const auto chat = tokenizer::ChatTemplate::load(model_);
    AUTOGLM_ASSIGN_OR_RETURN(const auto documents, eval::read_documents(text, chat.ok() ? &*chat : nullptr));
    auto drawn = eval::draw_sequences(
        documents, *tokenizer_,
        {options_.samples, length_, options_.seed, /*allow_short=*/false, /*shorten_with=*/"--length"});
    if (!drawn.ok()) return drawn.status().with_context(format::display_path(text));
    return drawn;
  }

  // What does not fit of the states goes to disk.
  Status fit_memory(const model::Decoder& source) {
    const int64_t most = api::memory_limit(options_.max_ram), used = current_rss_bytes();
    how_.state_bytes = 0;
    const int64_t least = used + pass::shift_bytes(source, sets_, evaluation_, how_);
    if (least > most) {
      return resource_exhausted(fmt::format("this needs {} of memory, but {} are allowed; compare fewer sets at a time",
                                            format_bytes(least), format_bytes(most)));
    }
    how_.state_bytes = most - least;
    return ok_status();
  }

  static void warn_of(const std::vector<pass::SetShift>& sets) {
    for (const pass::SetShift& set : sets) {
      const auto unlike = std::count_if(set.inputs.begin(), set.inputs.end(),
                                        [](const pass::InputShift& input) { return input.excess() > kUnlike; });
      if (unlike == 0) continue;
      const auto worst = std::max_element(set.inputs.begin(), set.inputs.end(),
                                          [](const auto& a, const auto& b) { return a.excess() < b.excess(); });
      warn(
          fmt::format("{} does not look like the evaluation text to {} of {} inputs: quantized on it, {} loses {:.1f} "
                      "times what it would",
                      format::display(set.name), unlike, set.inputs.size(), worst->input, worst->excess() + 1));
    }
  }

  Json to_json(const std::vector<pass::SetShift>& sets) const {
    Json out = {
        {"model", model_.string()}, {"evaluation", evaluation_.name}, {"quantization", how_.scheme.to_string()}};
    out["sets"] = Json::array();
    for (const pass::SetShift& set : sets) {
      Json inputs = Json::array();
      for (const pass::InputShift& input : set.inputs) {
        inputs.push_back({{"input", input.input},
                          {"layer", input.layer},
                          {"distance", input.distance},
                          {"channel_distance", input.channel_distance},
                          {"range_ratio", input.range_ratio},
                          {"error", input.error},
                          {"own_error", input.own_error}});
      }
      out["sets"].push_back({{"name", set.name}, {"tokens", set.tokens}, {"inputs", std::move(inputs)}});
    }
    out["rank_correlation"] = {{"distance", to_json(correlate(sets, distance_of))},
                               {"channel_distance", to_json(correlate(sets, channel_distance_of))}};
    return out;
  }

  static Json to_json(const Correlation& found) {
    return {{"pooled", found.pooled}, {"across_sets", found.across_sets}};
  }

  std::string to_text(const std::vector<pass::SetShift>& sets) const {
    eval::Table table({"calibrated on", "tokens", "distance", "channels", "range", "excess error"});
    for (const pass::SetShift& set : sets) {
      table.add_row({set.name, std::to_string(set.tokens), fmt::format("{:.3f}", mean_of(set, distance_of)),
                     fmt::format("{:.3f}", mean_of(set, channel_distance_of)),
                     fmt::format("{:.2f}", mean_of(set, range_ratio_of)),
                     fmt::format("{:+.1f} %", 100 * mean_of(set, excess_of))});
    }
    std::string out = fmt::format(
        "Distance of calibration text from {}, mean over {} inputs, and what quantizing to {} on it costs there:\n\n{}",
        evaluation_.name, sets.front().inputs.size(), how_.scheme.to_string(), table.text());
    out += "\n" + worst_inputs(sets);
    const Correlation values = correlate(sets, distance_of), channels = correlate(sets, channel_distance_of);
    out += fmt::format(
        "\nSpearman's correlation of distance and excess error: {:.2f} by values, {:.2f} by channels (over {} sets, "
        "mean "
        "of inputs: {:.2f} and {:.2f})\n",
        values.pooled, channels.pooled, sets.size(), values.across_sets, channels.across_sets);
    return out;
  }

  static std::string worst_inputs(const std::vector<pass::SetShift>& sets) {
    std::vector<std::pair<const pass::SetShift*, const pass::InputShift*>> all;
    for (const pass::SetShift& set : sets) {
      for (const pass::InputShift& input : set.inputs) all.emplace_back(&set, &input);
    }
    const size_t shown = std::min(kWorstShown, all.size());
    std::partial_sort(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(shown), all.end(),
                      [](const auto& a, const auto& b) { return a.second->excess() > b.second->excess(); });
    eval::Table table({"furthest inputs", "calibrated on", "distance", "channels", "range", "excess error"});
    for (size_t i = 0; i < shown; ++i) {
      const auto& [set, input] = all[i];
      table.add_row({input->input, set->name, fmt::format("{:.3f}", input->distance),
                     fmt::format("{:.3f}", input->channel_distance), fmt::format("{:.2f}", input->range_ratio),
                     fmt::format("{:+.1f} %", 100 * input->excess())});
    }
    return table.text();
  }

  const ShiftOptions& options_;
  CancelToken& cancel_;
  fs::path model_;
  int64_t length_ = 0;
  std::unique_ptr<tokenizer::Tokenizer> tokenizer_;
  pass::Registry registry_;
  pass::ShiftOptions how_;
  pass::TextSet evaluation_;
  std::vector<pass::TextSet> sets_;
};

}  // namespace

Result<CalibrationOutcome> measure_shift(const ShiftOptions& options, CancelToken& cancel) {
  return tensor::guarded([&] { return ShiftReport(options, cancel).run(); });
}

}  // namespace autoglm
