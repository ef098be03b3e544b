#include "core/eval/calibration_builder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/eval/dataset.h"
#include "core/eval/language.h"

namespace autoglm::eval {
namespace {

constexpr int64_t kLeastPiece = 8 << 10;  // bytes: a few paragraphs, of one language mostly
constexpr int64_t kBytesPerToken = 32;    // a piece has text for several sequences

/// How much of each may be taken so that all together give `total`: the level at which water stands.
int64_t level(std::vector<int64_t> sizes, int64_t total) {
  std::sort(sizes.begin(), sizes.end());
  for (size_t i = 0; i < sizes.size(); ++i) {
    const int64_t each = total / static_cast<int64_t>(sizes.size() - i);
    if (sizes[i] >= each) return each;
    total -= sizes[i];
  }
  return total;
}

struct Piece {
  std::string_view text;
  int64_t document = 0;
};

std::vector<Piece> cut(const std::vector<std::string>& documents, int64_t length) {
  std::vector<Piece> pieces;
  for (size_t i = 0; i < documents.size(); ++i) {
    for (const std::string_view text :
         cut_pieces(documents[i], static_cast<size_t>(std::max(kLeastPiece, length * kBytesPerToken)))) {
      pieces.push_back({text, static_cast<int64_t>(i)});
    }
  }
  return pieces;
}

}  // namespace

CalibrationBuilder::CalibrationBuilder(const tokenizer::Tokenizer& tokenizer, const BuildOptions& options,
                                       std::vector<int64_t> sizes)
    : tokenizer_(tokenizer),
      options_(options),
      most_bytes_(level(std::move(sizes), enough_text(options.samples, options.length))),
      random_(options.seed) {
  set_.tokenizer = vocabulary_hash(tokenizer);
  set_.length = options.length;
  set_.seed = options.seed;
  set_.join = options.join;
}

bool CalibrationBuilder::is_new(std::string_view document) {
  ++set_.documents;
  const Duplicates::Kind kind = seen_.add(document);
  set_.duplicates_removed += kind == Duplicates::Kind::kSame ? 1 : 0;
  set_.near_duplicates_removed += kind == Duplicates::Kind::kNear ? 1 : 0;
  return kind == Duplicates::Kind::kNew;
}

void CalibrationBuilder::keep(Tokens tokens, std::vector<int64_t> documents, std::string_view language) {
  const auto count = static_cast<int64_t>(tokens.size());
  Candidates& stratum = strata_[{set_.sources.size() - 1, std::string(language), length_class(count, options_.length)}];
  stratum.tokens += count;
  stratum.sequences.push_back({std::move(tokens), "", "", std::string(language), std::move(documents)});
}

void CalibrationBuilder::pack(Packing& packing, const Tokens& tokens, int64_t document, std::string_view language) {
  if (packing.documents.empty() || packing.documents.back() != document) packing.documents.push_back(document);
  packing.tokens.insert(packing.tokens.end(), tokens.begin(), tokens.end());
  const auto length = static_cast<size_t>(options_.length);
  size_t used = 0;
  for (; packing.tokens.size() - used >= length; used += length) {
    const auto begin = packing.tokens.begin() + static_cast<std::ptrdiff_t>(used);
    keep({begin, begin + static_cast<std::ptrdiff_t>(length)}, packing.documents, language);
    packing.documents = {document};
    packing.cut = true;
  }
  packing.tokens.erase(packing.tokens.begin(), packing.tokens.begin() + static_cast<std::ptrdiff_t>(used));
  if (packing.tokens.empty()) packing.documents.clear();
}

void CalibrationBuilder::finish(Packing& packing, std::string_view language) {
  if (packing.cut) return;
  if (static_cast<int64_t>(packing.tokens.size()) >= kShortestSequence) {
    keep(std::move(packing.tokens), std::move(packing.documents), language);
  } else {
    set_.too_short += static_cast<int64_t>(packing.documents.size());
  }
}

Status CalibrationBuilder::add(SetSource source, const std::vector<std::string>& documents, const CancelToken& cancel) {
  set_.sources.push_back(std::move(source));
  const std::vector<Piece> pieces = cut(documents, options_.length);
  const auto count = static_cast<int64_t>(pieces.size());
  std::map<std::string_view, Packing> joined;  // by language
  int64_t kept_bytes = 0, looked_at = 0;
  for (const int64_t i : draw_indices(count, count, random_.next())) {
    AUTOGLM_RETURN_IF_ERROR(cancel.check());
    const Piece& piece = pieces[static_cast<size_t>(i)];
    if (kept_bytes >= most_bytes_) break;
    ++looked_at;
    if (!is_new(piece.text)) continue;
    kept_bytes += static_cast<int64_t>(piece.text.size());
    const std::string_view language = language_of(piece.text);
    Packing alone;
    Packing& packing = options_.join ? joined[language] : alone;
    pack(packing, tokenizer_.encode(piece.text), piece.document, language);
    if (!options_.join) finish(packing, language);
  }
  for (auto& [language, packing] : joined) finish(packing, language);
  scale_.push_back(static_cast<double>(count) / static_cast<double>(std::max<int64_t>(1, looked_at)));
  return ok_status();
}

Status CalibrationBuilder::add(SetSource source, std::vector<Tokens> sequences, const CancelToken& cancel) {
  set_.sources.push_back(std::move(source));
  scale_.push_back(1);
  for (size_t i = 0; i < sequences.size(); ++i) {
    AUTOGLM_RETURN_IF_ERROR(cancel.check());
    const std::string text = tokenizer_.decode(sequences[i]);
    if (is_new(text)) keep(std::move(sequences[i]), {static_cast<int64_t>(i)}, language_of(text));
  }
  return ok_status();
}

Result<CalibrationSet> CalibrationBuilder::build() {
  std::vector<Stratum> strata;
  std::vector<std::pair<size_t, Candidates*>> candidates;  // and their sources
  std::vector<std::vector<int64_t>> order;
  for (auto& [key, stratum] : strata_) {
    const size_t source = std::get<0>(key);
    const auto count = static_cast<int64_t>(stratum.sequences.size());
    strata.push_back({std::sqrt(static_cast<double>(stratum.tokens) * scale_[source]), count});
    candidates.emplace_back(source, &stratum);
    order.push_back(draw_indices(count, count, random_.next()));
    std::reverse(order.back().begin(), order.back().end());  // taken from the end
  }
  for (const size_t turn : spread(strata, options_.samples)) {
    const auto& [source, stratum] = candidates[turn];
    SetSequence& sequence = stratum->sequences[static_cast<size_t>(order[turn].back())];
    order[turn].pop_back();
    sequence.source = set_.sources[source].name;
    sequence.text = tokenizer_.decode(sequence.tokens);
    set_.sequences.push_back(std::move(sequence));
  }
  set_.samples = static_cast<int64_t>(set_.sequences.size());
  if (set_.samples > 0) return std::move(set_);
  return bad_input(
      fmt::format("there is no text for a single sequence: of {} documents {} were duplicates and {} had "
                  "fewer than {} tokens{}",
                  set_.documents, set_.duplicates_removed + set_.near_duplicates_removed, set_.too_short,
                  kShortestSequence, options_.join ? "" : "; give longer text, or --join"));
}

}  // namespace autoglm::eval
