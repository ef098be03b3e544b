#pragma once
/// Texts: what one compression is calibrated on and what it is evaluated on. The two share no piece of text: files that
/// are named for both are split.
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/settings.h"
#include "core/base/status.h"
#include "core/eval/calibration_set.h"
#include "core/eval/scorer.h"
#include "core/tokenizer/chat_template.h"
#include "core/tokenizer/tokenizer.h"

namespace autoglm::api {

/// The word that stands for text which the source model writes itself.
inline constexpr std::string_view kSelf = "self";

/// What every text of the model begins with: "[gMASK]<sop>" where its vocabulary has them.
eval::Tokens start_of_text(const tokenizer::Tokenizer& tokenizer);

/// Where calibration text comes from: kSelf, the file or folder that was named, else the model's own calibration tasks;
/// "" for none. kBadInput: what was named, here or for evaluation, is not there, whether or not it will be read.
Result<std::string> find_calibration(const Settings& settings, const std::filesystem::path& model);

struct Texts {
  std::string calibration;                  ///< file, folder or kSelf; "": nothing is calibrated
  std::optional<eval::CalibrationSet> set;  ///< its header, where calibration is a calibration set
  std::string evaluation;  ///< file or folder that was named; "": the model's tasks, held-back text, or its own writing

  // Their files, told apart by what they are on the disk, not by name.
  std::vector<std::filesystem::path> for_calibration, for_both, for_evaluation;
};

/// Assigns the files. `calibration` is of find_calibration, and "" where no method needs any: text that was named and
/// goes unused is warned of. Without any to evaluate on, all of calibration is for both, unless it is a set: then the
/// model writes some.
/// kInvalidArgument: calibration on the model's own tasks/eval.jsonl, whose answers are evaluated; a set beside text
/// that it was made from.
Result<Texts> assign_texts(const Settings& settings, const std::filesystem::path& model,
                           const std::string& calibration);

/// Lets a calibration set, if there is one, say how many sequences there are and how long they are: all of them, or the
/// first that the settings ask for. Warns of settings that cannot be followed. kBadInput: longer than the `most`
/// positions of the model (0: not known).
Status follow_set(const Texts& texts, int64_t most, Settings& settings);

/// The first `count` sequences of a set, as they are. kBadInput: it is broken, or of another tokenizer.
Result<std::vector<eval::Tokens>> read_set(const std::filesystem::path& file, const tokenizer::Tokenizer& tokenizer,
                                           int64_t vocabulary, int64_t count);

struct TextSplit {
  std::vector<std::string> calibration;  ///< documents
  std::vector<std::string> evaluation;   ///< what is to be evaluated on instead of `Texts::evaluation`; empty: that
};

/// Reads them, evaluation text too, so that what cannot be read is found before the work. `chat` may be null where no
/// line needs it. kBadInput: names file and line; text for both that is too short to be split.
Result<TextSplit> read_texts(const Texts& texts, const tokenizer::ChatTemplate* chat, uint64_t seed);

}  // namespace autoglm::api
