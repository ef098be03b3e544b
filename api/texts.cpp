#include "api/texts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <system_error>
#include <utility>

#include "core/base/log.h"
#include "core/eval/dataset.h"
#include "core/eval/tasks.h"
#include "core/format/display.h"
#include "core/format/file.h"

namespace autoglm::api {
namespace {

namespace fs = std::filesystem;
using Files = std::vector<fs::path>;

constexpr double kHeldOutShare = 0.1;  // of text that is for both
constexpr size_t kLeastHeldOut = 128;  // bytes that measure anything

/// Files by what is in them, so that links, copies and other spellings of a path are known as the same text.
class FileSet {
 public:
  explicit FileSet(const Files& files) {
    for (const fs::path& file : files) by_size_.emplace(size_of(file), file);
  }
  bool contains(const fs::path& file) const {
    const auto [first, last] = by_size_.equal_range(size_of(file));
    return std::any_of(first, last, [&](const auto& other) { return same_contents(file, other.second); });
  }

 private:
  static uintmax_t size_of(const fs::path& file) {
    std::error_code error;
    return fs::file_size(file, error);
  }
  static bool same_contents(const fs::path& a, const fs::path& b) {
    std::error_code error;
    if (fs::equivalent(a, b, error)) return true;
    const auto one = format::sha256_of_file(a), other = format::sha256_of_file(b);
    return one.ok() && other.ok() && *one == *other;
  }
  std::multimap<uintmax_t, fs::path> by_size_;
};

void warn_unused(const char* option, const std::string& text, const char* reason) {
  if (!text.empty()) warn(fmt::format("{} {} is not read: {}", option, format::display_path(text), reason));
}

// Text that a set was made from may not be evaluated on, under whatever name it lies.
Status check_apart(const eval::CalibrationSet& set, const std::string& name, const Files& evaluated) {
  for (const fs::path& file : evaluated) {
    AUTOGLM_ASSIGN_OR_RETURN(const std::string hash, format::sha256_of_file(file));
    const bool used = std::any_of(set.sources.begin(), set.sources.end(),
                                  [&](const eval::SetSource& source) { return source.sha256 == hash; });
    if (!used) continue;
    return invalid_argument(fmt::format(
        "{}: is evaluated on, but {} was made from it; name other text with --eval-dataset, or give --verify none",
        format::display_path(file), format::display_path(name)));
  }
  return ok_status();
}

void append(std::vector<std::string>& to, std::vector<std::string> documents) {
  to.insert(to.end(), std::make_move_iterator(documents.begin()), std::make_move_iterator(documents.end()));
}

}  // namespace

eval::Tokens start_of_text(const tokenizer::Tokenizer& tokenizer) {
  eval::Tokens start;
  for (const char* token : {"[gMASK]", "<sop>"}) {
    if (const auto id = tokenizer.token_to_id(token)) start.push_back(*id);
  }
  return start;
}

Result<std::string> find_calibration(const Settings& settings, const fs::path& model) {
  for (const std::string& named : {settings.calibration, settings.evaluation}) {
    if (!named.empty() && named != kSelf) AUTOGLM_RETURN_IF_ERROR(eval::text_files(named).status());
  }
  if (!settings.calibration.empty()) return settings.calibration;
  const fs::path own = model / "tasks" / "calibration.jsonl";
  std::error_code error;
  return fs::is_regular_file(own, error) ? own.string() : std::string();
}

Result<Texts> assign_texts(const Settings& settings, const fs::path& model, const std::string& calibration) {
  Texts texts;
  texts.calibration = calibration;
  Files calibrated;
  if (calibration.empty()) {
    warn_unused("--calibration-dataset", settings.calibration, "no method of this recipe needs calibration");
  } else if (calibration != kSelf && eval::is_calibration_set(calibration)) {
    AUTOGLM_ASSIGN_OR_RETURN(texts.set, eval::read_set_header(calibration));
  } else if (calibration != kSelf) {
    AUTOGLM_ASSIGN_OR_RETURN(calibrated, eval::text_files(calibration));
  }
  if (settings.verify == "none") {
    warn_unused("--eval-dataset", settings.evaluation, "--verify none evaluates nothing");
    texts.for_calibration = std::move(calibrated);
    return texts;
  }
  const auto tasks = eval::find_tasks(model);
  if (tasks && FileSet(calibrated).contains(*tasks)) {
    return invalid_argument(
        fmt::format("{}: holds the tasks that the model is evaluated on ({}), which may not be calibrated on; name "
                    "other text, or give --verify none",
                    format::display_path(calibration), format::display_path(*tasks)));
  }
  texts.evaluation = settings.evaluation;
  Files evaluated;
  if (!texts.evaluation.empty()) {
    AUTOGLM_ASSIGN_OR_RETURN(evaluated, eval::text_files(texts.evaluation));
  } else if (!tasks) {
    evaluated = calibrated;
  }
  if (texts.set) {
    Files all = evaluated;
    if (tasks) all.push_back(*tasks);
    AUTOGLM_RETURN_IF_ERROR(check_apart(*texts.set, calibration, all));
  }
  const FileSet calibration_set(calibrated), evaluation_set(evaluated);
  for (fs::path& file : calibrated) {
    (evaluation_set.contains(file) ? texts.for_both : texts.for_calibration).push_back(std::move(file));
  }
  std::copy_if(evaluated.begin(), evaluated.end(), std::back_inserter(texts.for_evaluation),
               [&](const fs::path& file) { return !calibration_set.contains(file); });
  return texts;
}

Status follow_set(const Texts& texts, int64_t most, Settings& settings) {
  if (!texts.set) return ok_status();
  const eval::CalibrationSet& set = *texts.set;
  const std::string name = format::display_path(texts.calibration);
  if (most > 0 && set.length > most) {
    return bad_input(
        fmt::format("{}: its sequences have up to {} tokens, the model takes {}; build one with --length {}", name,
                    set.length, most, most));
  }
  if (settings.length_given && settings.calibration_length != set.length) {
    warn(fmt::format("{}: the sequences of a set are taken as they are, of up to {} tokens, not of {}", name,
                     set.length, settings.calibration_length));
  }
  if (settings.samples_given && settings.calibration_samples > set.samples) {
    warn(fmt::format("{}: has {} sequences, not {}; all are taken", name, set.samples, settings.calibration_samples));
  }
  settings.calibration_length = set.length;
  settings.calibration_samples =
      settings.samples_given ? std::min(settings.calibration_samples, set.samples) : set.samples;
  return ok_status();
}

Result<std::vector<eval::Tokens>> read_set(const fs::path& file, const tokenizer::Tokenizer& tokenizer,
                                           int64_t vocabulary, int64_t count) {
  AUTOGLM_ASSIGN_OR_RETURN(const auto header, eval::read_set_header(file));
  if (header.tokenizer != eval::vocabulary_hash(tokenizer)) {
    return bad_input(format::display_path(file) +
                     ": was built for another model's tokenizer; build one for this model with `autoglm calibrate "
                     "build`");
  }
  AUTOGLM_ASSIGN_OR_RETURN(auto set, eval::read_calibration_set(file, vocabulary));
  std::vector<eval::Tokens> sequences;
  for (eval::SetSequence& sequence : set.sequences) {
    if (static_cast<int64_t>(sequences.size()) < count) sequences.push_back(std::move(sequence.tokens));
  }
  return sequences;
}

Result<TextSplit> read_texts(const Texts& texts, const tokenizer::ChatTemplate* chat, uint64_t seed) {
  TextSplit split;
  AUTOGLM_ASSIGN_OR_RETURN(split.calibration, eval::read_files(texts.for_calibration, chat));
  AUTOGLM_ASSIGN_OR_RETURN(const auto both, eval::read_files(texts.for_both, chat));
  AUTOGLM_ASSIGN_OR_RETURN(auto evaluation, eval::read_files(texts.for_evaluation, chat));
  if (!texts.for_both.empty()) {
    eval::HeldOut parts = eval::hold_out(both, kHeldOutShare, seed);
    size_t held = 0;
    for (const std::string& piece : parts.evaluation) held += piece.size();
    if (held < kLeastHeldOut) parts = {.calibration = both, .evaluation = {}};
    append(split.calibration, std::move(parts.calibration));
    append(split.evaluation, std::move(parts.evaluation));
    append(split.evaluation, std::move(evaluation));
    if (split.evaluation.empty() && !texts.evaluation.empty()) {
      return bad_input(texts.evaluation +
                       ": too short to be split into text for calibration and other text for evaluation; give two "
                       "files");
    }
    if (split.evaluation.empty()) {
      warn(format::display_path(texts.calibration) +
           ": too short to hold some of it back; the model is evaluated on text that it writes itself");
    }
  } else if (evaluation.empty() && !texts.evaluation.empty()) {
    return bad_input(format::display_path(texts.evaluation) + ": there is no text in it");
  }
  if (split.calibration.empty() && !texts.calibration.empty() && texts.calibration != kSelf && !texts.set) {
    return bad_input(format::display_path(texts.calibration) + ": there is no text in it");
  }
  return split;
}

}  // namespace autoglm::api
