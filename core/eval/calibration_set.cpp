#include "core/eval/calibration_set.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <map>
#include <string_view>
#include <tuple>
#include <utility>

#include "core/base/sha256.h"
#include "core/eval/strata.h"
#include "core/eval/table.h"
#include "core/eval/text_lines.h"
#include "core/format/display.h"

namespace autoglm::eval {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kMark = "calibration_set";
constexpr int64_t kMany = std::numeric_limits<int64_t>::max();

/// A member that is a whole number of [low, high]; `otherwise` where there is none.
Result<int64_t> whole(const Json& line, const char* name, int64_t low, int64_t high, int64_t otherwise = -1) {
  const auto found = line.find(name);
  if (found == line.end() && otherwise >= 0) return otherwise;
  const bool fits = found != line.end() && found->is_number_integer() &&
                    (!found->is_number_unsigned() || found->get<uint64_t>() <= static_cast<uint64_t>(kMany));
  if (!fits || found->get<int64_t>() < low || found->get<int64_t>() > high) {
    return bad_input(fmt::format("`{}` should be a whole number from {} to {}", name, low, high));
  }
  return found->get<int64_t>();
}

Result<std::string> word(const Json& line, const char* name) {
  const auto found = line.find(name);
  if (found == line.end() || !found->is_string()) return bad_input(fmt::format("`{}` should be a string", name));
  return found->get<std::string>();
}

Result<const Json*> list(const Json& line, const char* name) {
  const auto found = line.find(name);
  if (found == line.end() || !found->is_array()) return bad_input(fmt::format("`{}` should be a list", name));
  return &*found;
}

template <typename T>
Result<std::vector<T>> numbers(const Json& line, const char* name, int64_t end) {
  AUTOGLM_ASSIGN_OR_RETURN(const Json* values, list(line, name));
  std::vector<T> out;
  for (const Json& value : *values) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() >= static_cast<uint64_t>(end)) {
      return bad_input(fmt::format("`{}` holds {}, not a whole number below {}", name,
                                   format::display(value.dump(-1, ' ', true, Json::error_handler_t::replace), 40),
                                   end));
    }
    out.push_back(value.get<T>());
  }
  return out;
}

Result<CalibrationSet> read_header(const Json& line) {
  if (!line.is_object() || !line.contains(kMark)) {
    return bad_input("this is no calibration set: its first line has no member `calibration_set`");
  }
  AUTOGLM_ASSIGN_OR_RETURN(const int64_t version, whole(line, kMark, 1, kMany));
  if (version > kCalibrationSetVersion) {
    return bad_input(fmt::format("a calibration set of version {}; this program reads {}, build it again", version,
                                 kCalibrationSetVersion));
  }
  CalibrationSet set;
  AUTOGLM_ASSIGN_OR_RETURN(set.tokenizer, word(line, "tokenizer"));
  AUTOGLM_ASSIGN_OR_RETURN(set.samples, whole(line, "samples", 1, kMaxSetSamples));
  AUTOGLM_ASSIGN_OR_RETURN(set.length, whole(line, "length", 2, kMaxSetLength));
  if (const auto seed = line.find("seed"); seed != line.end() && seed->is_number_unsigned()) {
    set.seed = seed->get<uint64_t>();
  }
  set.join = line.contains("join") && line["join"] == true;
  for (const auto& [name, count] :
       {std::pair("documents", &set.documents), std::pair("duplicates_removed", &set.duplicates_removed),
        std::pair("near_duplicates_removed", &set.near_duplicates_removed), std::pair("too_short", &set.too_short)}) {
    AUTOGLM_ASSIGN_OR_RETURN(*count, whole(line, name, 0, kMany, /*otherwise=*/0));
  }
  AUTOGLM_ASSIGN_OR_RETURN(const Json* sources, list(line, "sources"));
  for (const Json& source : *sources) {
    if (!source.is_object()) return bad_input("`sources` should hold objects");
    SetSource& added = set.sources.emplace_back();
    AUTOGLM_ASSIGN_OR_RETURN(added.name, word(source, "name"));
    if (source.contains("sha256")) {
      AUTOGLM_ASSIGN_OR_RETURN(added.sha256, word(source, "sha256"));
    }
  }
  return set;
}

Result<SetSequence> read_sequence(const Json& line, const CalibrationSet& set, int64_t vocabulary) {
  if (!line.is_object()) return bad_input("a sequence should be a JSON object");
  SetSequence out;
  AUTOGLM_ASSIGN_OR_RETURN(out.tokens, numbers<int32_t>(line, "tokens", vocabulary));
  const auto count = static_cast<int64_t>(out.tokens.size());
  if (count < 2 || count > set.length) {
    return bad_input(
        fmt::format("a sequence of {} tokens; from 2 to the header's `length` of {} are expected", count, set.length));
  }
  AUTOGLM_ASSIGN_OR_RETURN(out.text, word(line, "text"));
  AUTOGLM_ASSIGN_OR_RETURN(out.source, word(line, "source"));
  AUTOGLM_ASSIGN_OR_RETURN(out.language, word(line, "language"));
  AUTOGLM_ASSIGN_OR_RETURN(out.documents, numbers<int64_t>(line, "documents", kMany));
  return out;
}

Json header_json(const CalibrationSet& set) {
  Json sources = Json::array();
  for (const SetSource& source : set.sources) {
    Json& added = sources.emplace_back(Json{{"name", source.name}});
    if (!source.sha256.empty()) added["sha256"] = source.sha256;
  }
  return {{kMark, kCalibrationSetVersion},
          {"tokenizer", set.tokenizer},
          {"samples", set.samples},
          {"length", set.length},
          {"seed", set.seed},
          {"join", set.join},
          {"documents", set.documents},
          {"duplicates_removed", set.duplicates_removed},
          {"near_duplicates_removed", set.near_duplicates_removed},
          {"too_short", set.too_short},
          {"sources", std::move(sources)}};
}

std::string dump(const Json& json, int indent = -1) {
  return json.dump(indent, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

/// Sequences and tokens of each stratum that a set has, sources in the header's order.
struct Share {
  std::string source, language, length;
  int64_t sequences = 0, tokens = 0;
};

std::vector<Share> shares_of(const CalibrationSet& set) {
  std::map<std::string, size_t> place;
  for (const SetSource& source : set.sources) place.emplace(source.name, place.size());
  std::map<std::tuple<size_t, std::string, int>, Share> shares;
  for (const SetSequence& sequence : set.sequences) {
    const auto count = static_cast<int64_t>(sequence.tokens.size());
    const size_t at = place.emplace(sequence.source, place.size()).first->second;
    Share& share = shares[{at, sequence.language, length_class(count, set.length)}];
    share.source = sequence.source;
    share.language = sequence.language;
    share.length = length_range(count, set.length);
    share.sequences += 1;
    share.tokens += count;
  }
  std::vector<Share> out;
  for (auto& [key, share] : shares) out.push_back(std::move(share));
  return out;
}

}  // namespace

int64_t CalibrationSet::tokens() const {
  int64_t sum = 0;
  for (const SetSequence& sequence : sequences) sum += static_cast<int64_t>(sequence.tokens.size());
  return sum;
}

std::string vocabulary_hash(const tokenizer::Tokenizer& tokenizer) {
  Sha256 hash;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const std::string spelling = tokenizer.id_to_token(id);
    hash.add(fmt::format("{} {} {}\n", spelling.size(), tokenizer.is_special(id) ? 1 : 0, spelling));
  }
  return hash.finish();
}

std::string tokens_hash(const std::vector<Tokens>& sequences) {
  Sha256 hash;
  std::string bytes;
  const auto append = [&](uint32_t number) {
    for (int shift = 0; shift < 32; shift += 8) bytes += static_cast<char>(number >> shift);
  };
  for (const Tokens& sequence : sequences) {
    bytes.clear();
    append(static_cast<uint32_t>(sequence.size()));
    for (const int32_t token : sequence) append(static_cast<uint32_t>(token));
    hash.add(bytes);
  }
  return hash.finish();
}

bool is_calibration_set(const fs::path& path) {
  if (path.extension() != ".jsonl") return false;
  const auto line = first_json_line(path);
  return line.ok() && line->is_object() && line->contains(kMark);
}

Result<CalibrationSet> read_set_header(const fs::path& path) {
  AUTOGLM_ASSIGN_OR_RETURN(const Json line, first_json_line(path));
  auto set = read_header(line);
  if (!set.ok()) return set.status().with_context(format::display_path(path) + ":1");
  return set;
}

Result<CalibrationSet> read_calibration_set(const fs::path& path, int64_t vocabulary) {
  AUTOGLM_ASSIGN_OR_RETURN(CalibrationSet set, read_set_header(path));
  const auto visit = [&](const Json& line) -> Status {
    AUTOGLM_ASSIGN_OR_RETURN(SetSequence sequence, read_sequence(line, set, vocabulary));
    if (static_cast<int64_t>(set.sequences.size()) == set.samples) {
      return bad_input(
          fmt::format("more than the {} sequences that the header says; build the set again", set.samples));
    }
    set.sequences.push_back(std::move(sequence));
    return ok_status();
  };
  AUTOGLM_RETURN_IF_ERROR(for_each_json_line(
      path, [](int64_t number) { return number > 1; }, visit));
  if (const auto found = static_cast<int64_t>(set.sequences.size()); found < set.samples) {
    return bad_input(fmt::format("{}: the file is cut short: {} of {} sequences are there; build the set again",
                                 format::display_path(path), found, set.samples));
  }
  return set;
}

std::string to_text(const CalibrationSet& set) {
  std::string out = dump(header_json(set)) + "\n";
  for (const SetSequence& sequence : set.sequences) {
    out += dump({{"tokens", sequence.tokens},
                 {"text", sequence.text},
                 {"source", sequence.source},
                 {"language", sequence.language},
                 {"documents", sequence.documents}}) +
           "\n";
  }
  return out;
}

std::string describe(const CalibrationSet& set) {
  std::string out = fmt::format(
      "{} sequences of up to {} tokens, {} tokens in all{}, seed {}\n{} documents looked at: {} said the same as an "
      "earlier one, {} nearly the same, {} were too short\n\n",
      set.sequences.size(), set.length, set.tokens(), set.join ? ", documents joined" : "", set.seed, set.documents,
      set.duplicates_removed, set.near_duplicates_removed, set.too_short);
  Table table({"source", "language", "tokens each", "sequences", "tokens"});
  for (const Share& share : shares_of(set)) {
    table.add_row(
        {share.source, share.language, share.length, std::to_string(share.sequences), std::to_string(share.tokens)});
  }
  return out + table.text();
}

std::string to_json(const CalibrationSet& set) {
  Json out = header_json(set);
  out["tokens"] = set.tokens();
  out["strata"] = Json::array();
  for (const Share& share : shares_of(set)) {
    out["strata"].push_back({{"source", share.source},
                             {"language", share.language},
                             {"length", share.length},
                             {"sequences", share.sequences},
                             {"tokens", share.tokens}});
  }
  return dump(out, 2) + "\n";
}

}  // namespace autoglm::eval
