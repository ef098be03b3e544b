#include <autoglm/calibrate.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "api/engine.h"
#include "api/model_source.h"
#include "api/self_text.h"
#include "api/texts.h"
#include "compress/tensor/bridge.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/progress.h"
#include "core/eval/calibration_builder.h"
#include "core/eval/calibration_set.h"
#include "core/eval/dataset.h"
#include "core/eval/text_lines.h"
#include "core/format/display.h"
#include "core/format/file.h"
#include "core/format/model_config.h"
#include "core/tokenizer/chat_template.h"
#include "core/tokenizer/tokenizer.h"

namespace autoglm {
namespace {

namespace fs = std::filesystem;

Result<CalibrationOutcome> outcome_of(const eval::CalibrationSet& set, const fs::path& file) {
  AUTOGLM_ASSIGN_OR_RETURN(const std::string hash, format::sha256_of_file(file));
  nlohmann::ordered_json json = {{"file", file.string()}, {"sha256", hash}};
  json.update(nlohmann::ordered_json::parse(eval::to_json(set)));
  return CalibrationOutcome{json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace),
                            fmt::format("{}: {}\nSHA-256 {}\n", format::display_path(file), eval::describe(set), hash)};
}

// One set from its options to the file.
class SetBuilding {
 public:
  SetBuilding(const CalibrationOptions& options, CancelToken& cancel) : options_(options), cancel_(cancel) {}

  Result<CalibrationOutcome> run() {
    AUTOGLM_RETURN_IF_ERROR(check_options());
    AUTOGLM_ASSIGN_OR_RETURN(model_, api::find_model(options_.model, cancel_));
    AUTOGLM_ASSIGN_OR_RETURN(const auto config, format::ModelConfig::load(model_));
    if (const int64_t most = config.max_position_embeddings; most > 0 && options_.length > most) {
      return invalid_argument(
          fmt::format("--length is {}, but the model takes {} tokens; give at most that", options_.length, most));
    }
    AUTOGLM_RETURN_IF_ERROR(find_texts());
    AUTOGLM_RETURN_IF_ERROR(check_output());
    AUTOGLM_ASSIGN_OR_RETURN(tokenizer_, tokenizer::Tokenizer::load(model_));
    AUTOGLM_ASSIGN_OR_RETURN(const eval::CalibrationSet set, build());
    if (set.samples < options_.samples) {
      warn(fmt::format("there is text for {} sequences, not for {}", set.samples, options_.samples));
    }
    AUTOGLM_RETURN_IF_ERROR(cancel_.check());
    AUTOGLM_RETURN_IF_ERROR(format::replace_file(options_.output, eval::to_text(set)));
    return outcome_of(set, options_.output);
  }

 private:
  Status check_options() const {
    AUTOGLM_RETURN_IF_ERROR(api::check_range("--samples", options_.samples, 1, eval::kMaxSetSamples));
    AUTOGLM_RETURN_IF_ERROR(
        api::check_range("--length", options_.length, eval::kShortestSequence, eval::kMaxSetLength));
    AUTOGLM_RETURN_IF_ERROR(api::check_range("--threads", options_.threads, 0, 1024));
    return ok_status();
  }

  // The files behind the words, each once.
  Status find_texts() {
    if (options_.texts.empty()) {
      return invalid_argument("no text given; name .txt or .jsonl files, folders of them, or self");
    }
    std::set<fs::path> seen;
    for (const std::string& text : options_.texts) {
      if (text == api::kSelf) {
        self_ = true;
        continue;
      }
      AUTOGLM_ASSIGN_OR_RETURN(const auto files, eval::text_files(text));
      for (const fs::path& file : files) {
        std::error_code error;
        if (seen.insert(fs::weakly_canonical(file, error)).second) files_.push_back(file);
      }
    }
    return ok_status();
  }

  // Before the work, what would keep the set from being written.
  Status check_output() const {
    if (options_.output.empty()) return invalid_argument("no output given; name the file to write: -o set.jsonl");
    if (fs::path(options_.output).extension() != ".jsonl") {
      return invalid_argument(
          fmt::format("{}: a set is a .jsonl file; name one", format::display_path(options_.output)));
    }
    const fs::path output = options_.output;
    const fs::path folder = output.has_parent_path() ? output.parent_path() : ".";
    const std::string shown = format::display_path(output);
    std::error_code error;
    if (fs::is_directory(output, error)) return invalid_argument(shown + ": is a folder; name a file");
    if (fs::exists(output, error) && !options_.overwrite) {
      return invalid_argument(shown + ": exists; --overwrite replaces it");
    }
    if (fs::exists(output, error) && !eval::is_calibration_set(output)) {
      return invalid_argument(shown + ": is no calibration set and is not replaced; name another file");
    }
    if (::access(folder.c_str(), W_OK) != 0) return format::system_failure(output, "cannot be written", errno);
    return ok_status();
  }

  Result<eval::CalibrationSet> build() {
    std::vector<int64_t> sizes;
    for (const fs::path& file : files_) {
      AUTOGLM_ASSIGN_OR_RETURN(const int64_t size, eval::text_file_size(file));
      sizes.push_back(size);
    }
    eval::CalibrationBuilder builder(*tokenizer_, {options_.samples, options_.length, options_.join, options_.seed},
                                     sizes);
    AUTOGLM_RETURN_IF_ERROR(read_files(builder));
    if (self_) AUTOGLM_RETURN_IF_ERROR(write_text(builder));
    return builder.build();
  }

  Status read_files(eval::CalibrationBuilder& builder) {
    const auto chat = tokenizer::ChatTemplate::load(model_);  // plain text needs none; reading says when one lacks
    Progress progress("reading text", static_cast<int64_t>(files_.size()));
    for (size_t i = 0; i < files_.size(); ++i) {
      AUTOGLM_RETURN_IF_ERROR(cancel_.check());
      progress.update(static_cast<int64_t>(i), files_[i].filename().string());
      AUTOGLM_ASSIGN_OR_RETURN(const auto documents, eval::read_files({files_[i]}, chat.ok() ? &*chat : nullptr));
      AUTOGLM_ASSIGN_OR_RETURN(std::string hash, format::sha256_of_file(files_[i], &cancel_));
      AUTOGLM_RETURN_IF_ERROR(builder.add({name_of(files_[i]), std::move(hash)}, documents, cancel_));
    }
    return ok_status();
  }

  // What the set calls a file: its own name, numbered where several have it.
  std::string name_of(const fs::path& file) {
    const std::string name = file.filename().string();
    std::string unique = name;
    for (int number = 2; !names_.insert(unique).second; ++number) unique = fmt::format("{} ({})", name, number);
    return unique;
  }

  // As many sequences as the model's share among the sources is.
  Status write_text(eval::CalibrationBuilder& builder) {
    api::use_threads(options_.threads);
    AUTOGLM_ASSIGN_OR_RETURN(const auto engine, api::decoder_options("cpu", "fp32"));
    AUTOGLM_ASSIGN_OR_RETURN(const auto decoder, model::Decoder::open(model_, engine));
    const int64_t needed = current_rss_bytes() + api::self_text_bytes(decoder, options_.length);
    if (const int64_t most = api::memory_limit(options_.max_ram); needed > most) {
      return resource_exhausted(fmt::format(
          "writing text takes the whole model, {} of memory, but {} are allowed; name files instead of self",
          format_bytes(needed), format_bytes(most)));
    }
    const auto sources = static_cast<int64_t>(files_.size()) + 1;
    const api::SelfText wanted{(options_.samples + sources - 1) / sources, options_.length, options_.seed,
                               options_.max_ram};
    AUTOGLM_ASSIGN_OR_RETURN(auto sequences, api::write_self_text(decoder, *tokenizer_, wanted, cancel_));
    return builder.add({std::string(api::kSelf), ""}, std::move(sequences), cancel_);
  }

  const CalibrationOptions& options_;
  CancelToken& cancel_;
  fs::path model_;
  std::vector<fs::path> files_;
  bool self_ = false;
  std::set<std::string> names_ = {std::string(api::kSelf)};
  std::unique_ptr<tokenizer::Tokenizer> tokenizer_;
};

}  // namespace

Result<CalibrationOutcome> build_calibration(const CalibrationOptions& options, CancelToken& cancel) {
  return tensor::guarded([&] { return SetBuilding(options, cancel).run(); });
}

Result<CalibrationOutcome> show_calibration(const std::string& file) {
  if (file.empty()) return invalid_argument("no calibration set given; name the file");
  return tensor::guarded([&]() -> Result<CalibrationOutcome> {
    AUTOGLM_ASSIGN_OR_RETURN(const auto set, eval::read_calibration_set(file, std::numeric_limits<int32_t>::max()));
    return outcome_of(set, file);
  });
}

}  // namespace autoglm
