#include "core/eval/dataset.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <string_view>
#include <system_error>
#include <utility>

#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/eval/random.h"
#include "core/eval/tasks.h"
#include "core/eval/text_lines.h"
#include "core/format/display.h"
#include "core/tokenizer/utf8.h"

namespace autoglm::eval {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr size_t kPieceBytes = 64 << 10;
constexpr size_t kFewestPieces = 10, kLeastPieceBytes = 256;  // that text is held out from
constexpr int64_t kSamples = 64;                              // pieces of a large .txt

bool has_text(std::string_view text) { return text.find_first_not_of(" \t\r\n") != std::string_view::npos; }

/// The end of a piece of at most `most` bytes that starts at `begin`: after the last newline within it, else before the
/// last whole character.
size_t piece_end(std::string_view text, size_t begin, size_t most) {
  if (text.size() - begin <= most) return text.size();
  const size_t newline = text.rfind('\n', begin + most - 1);
  if (newline != std::string_view::npos && newline >= begin) return newline + 1;
  return begin + most - tokenizer::truncated_utf8_tail(text.substr(begin, most));
}

size_t bytes_of(const std::vector<std::string>& documents) {
  size_t bytes = 0;
  for (const std::string& document : documents) bytes += document.size();
  return bytes;
}

std::vector<std::string_view> pieces_of(const std::vector<std::string>& documents) {
  std::vector<std::string_view> pieces;
  for (const std::string_view document : documents) {
    const auto cut = cut_pieces(document, kPieceBytes);
    pieces.insert(pieces.end(), cut.begin(), cut.end());
  }
  return pieces;
}

/// Pieces of at most `most` bytes; a rest of less than half of that goes with the one before.
std::vector<std::string_view> even_pieces_of(const std::vector<std::string>& documents, size_t most) {
  std::vector<std::string_view> pieces;
  for (const std::string_view document : documents) {
    auto cut = cut_pieces(document, most);
    if (cut.size() > 1 && cut.back().size() < most / 2) {
      cut.pop_back();
      cut.back() = document.substr(static_cast<size_t>(cut.back().data() - document.data()));
    }
    pieces.insert(pieces.end(), cut.begin(), cut.end());
  }
  return pieces;
}

Result<std::string> read_range(std::ifstream& in, const fs::path& path, int64_t offset, int64_t size) {
  std::string text(static_cast<size_t>(size), '\0');
  in.seekg(offset);
  in.read(text.data(), size);
  if (in.bad()) return bad_input(format::display_path(path) + ": cannot be read");
  text.resize(static_cast<size_t>(in.gcount()));
  in.clear();
  return text;
}

/// Pieces evenly spaced over the file, each from the first line start to the last line end inside it.
Result<std::string> read_text_sample(std::ifstream& in, const fs::path& path, int64_t size, int64_t max_bytes) {
  std::string text;
  for (int64_t i = 0; i < kSamples; ++i) {
    AUTOGLM_ASSIGN_OR_RETURN(std::string piece, read_range(in, path, size / kSamples * i, max_bytes / kSamples));
    const size_t first = i == 0 ? 0 : piece.find('\n') + 1, last = piece.rfind('\n');
    if (last == std::string::npos || first > last) continue;
    text.append(piece, first, last + 1 - first);
  }
  return text;
}

Result<std::string> read_txt(const fs::path& path, int64_t max_bytes) {
  AUTOGLM_ASSIGN_OR_RETURN(const int64_t size, text_file_size(path));
  std::ifstream in(path, std::ios::binary);
  if (!in) return bad_input(format::display_path(path) + ": cannot be opened; check its permissions");
  std::string text;
  if (size <= max_bytes) {
    AUTOGLM_ASSIGN_OR_RETURN(text, read_range(in, path, 0, size));
  } else {
    warn(fmt::format("{} has {}; {} of it, evenly spaced, are used", format::display_path(path), format_bytes(size),
                     format_bytes(max_bytes)));
    AUTOGLM_ASSIGN_OR_RETURN(text, read_text_sample(in, path, size, max_bytes));
  }
  text = tokenizer::replace_invalid_utf8(without_byte_order_mark(text));
  if (!text.empty() && text.back() != '\n') text += '\n';
  return text;
}

/// A conversation with the answer in it, ended as the template ends a turn: what it writes after the answer before the
/// next turn begins, up to the end of the first "<...>" ("<|user|>" for GLM, "<|im_end|>" for ChatML).
std::string turn_end(std::string_view rendered, std::string_view answer) {
  const size_t found = rendered.rfind(answer);
  if (found == std::string_view::npos) return "";
  const std::string_view after = rendered.substr(found + answer.size());
  const size_t open = after.find_first_not_of(" \n");
  if (open == std::string_view::npos || after[open] != '<') return "";
  const size_t close = after.find('>', open);
  return close == std::string_view::npos ? "" : std::string(after.substr(0, close + 1));
}

/// Prompt, expected text and the end of the turn: what the model reads and writes in one answer.
Result<std::string> render_task(const Json& line, const tokenizer::ChatTemplate* chat) {
  AUTOGLM_ASSIGN_OR_RETURN(const Task task, parse_task(line, chat));
  std::string text = task.prompt + task.expected;
  if (chat != nullptr && !line.contains("prompt")) {
    Json messages = task_messages(line);
    messages.push_back({{"role", "assistant"}, {"content", task.expected}});
    messages.push_back({{"role", "user"}, {"content", "."}});
    const auto rendered = chat->render({{"messages", messages}, {"add_generation_prompt", false}});
    if (rendered.ok()) text += turn_end(*rendered, task.answer);  // a template may refuse a fourth turn
  }
  return text;
}

Result<std::string> render_line(const Json& line, const tokenizer::ChatTemplate* chat) {
  if (!line.is_object()) return bad_input(fmt::format("a JSON object is expected, not {}", line.type_name()));
  if (line.contains("calibration_set")) {
    return bad_input("a calibration set is no text; it is used whole, as --calibration-dataset of `compress`");
  }
  if (const auto text = line.find("text"); text != line.end()) {
    if (!text->is_string()) return bad_input(fmt::format("`text` should be a string, not {}", text->type_name()));
    auto document = text->get<std::string>();
    if (!document.empty() && document.back() != '\n') document += '\n';
    return document;
  }
  if (is_task(line)) return render_task(line, chat);
  if (const auto messages = line.find("messages"); messages != line.end()) {
    return render_messages(line, chat, /*add_generation_prompt=*/false);
  }
  return bad_input("no member `text`, `messages`, or `user` and `answer`");
}

Status read_jsonl(const fs::path& path, const tokenizer::ChatTemplate* chat, int64_t max_bytes,
                  std::vector<std::string>& documents) {
  AUTOGLM_ASSIGN_OR_RETURN(const int64_t size, text_file_size(path));
  const int64_t stride = (size + max_bytes - 1) / max_bytes;
  if (stride > 1) {
    warn(fmt::format("{} has {}; one of {} lines is used", format::display_path(path), format_bytes(size), stride));
  }
  int64_t seen = 0;
  return for_each_json_line(
      path, [&](int64_t) { return stride <= 1 || seen++ % stride == 0; },
      [&](const Json& line) -> Status {
        AUTOGLM_ASSIGN_OR_RETURN(std::string document, render_line(line, chat));
        if (has_text(document)) documents.push_back(std::move(document));
        return ok_status();
      });
}

bool is_text_name(const fs::path& file) { return file.extension() == ".txt" || file.extension() == ".jsonl"; }

Result<std::vector<fs::path>> files_of_folder(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    std::error_code ignored;
    if (is_text_name(it->path()) && it->is_regular_file(ignored)) files.push_back(it->path());
  }
  if (error) return bad_input(fmt::format("{}: {}", format::display_path(folder), error.message()));
  if (files.empty()) return bad_input(format::display_path(folder) + ": the folder holds no .txt or .jsonl file");
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

Result<std::vector<fs::path>> text_files(const fs::path& path) {
  std::error_code error;
  const auto type = fs::status(path, error).type();
  if (type == fs::file_type::not_found) {
    return bad_input(format::display_path(path) +
                     ": no such file or folder; text is read from .txt, .jsonl or a folder "
                     "of those");
  }
  if (type == fs::file_type::directory) return files_of_folder(path);
  if (is_text_name(path)) return std::vector<fs::path>{path};
  return bad_input(fmt::format("{}: text is read from .txt, .jsonl or a folder of those, not from '{}'",
                               format::display_path(path), path.extension().string()));
}

Result<std::vector<std::string>> read_files(const std::vector<fs::path>& files, const tokenizer::ChatTemplate* chat,
                                            int64_t max_file_bytes) {
  std::vector<std::string> documents;
  for (const fs::path& file : files) {
    if (file.extension() == ".txt") {
      AUTOGLM_ASSIGN_OR_RETURN(std::string text, read_txt(file, max_file_bytes));
      if (has_text(text)) documents.push_back(std::move(text));
    } else {
      AUTOGLM_RETURN_IF_ERROR(read_jsonl(file, chat, max_file_bytes, documents));
    }
  }
  return documents;
}

Result<std::vector<std::string>> read_documents(const fs::path& path, const tokenizer::ChatTemplate* chat,
                                                int64_t max_file_bytes) {
  AUTOGLM_ASSIGN_OR_RETURN(const std::vector<fs::path> files, text_files(path));
  AUTOGLM_ASSIGN_OR_RETURN(std::vector<std::string> documents, read_files(files, chat, max_file_bytes));
  if (documents.empty()) return bad_input(format::display_path(path) + ": there is no text in it");
  return documents;
}

std::vector<std::string_view> cut_pieces(std::string_view document, size_t most) {
  std::vector<std::string_view> pieces;
  for (size_t begin = 0; begin < document.size();) {
    const size_t end = piece_end(document, begin, most);
    pieces.push_back(document.substr(begin, end - begin));
    begin = end;
  }
  return pieces;
}

HeldOut hold_out(const std::vector<std::string>& documents, double share, uint64_t seed) {
  const size_t most = std::clamp(bytes_of(documents) / kFewestPieces, kLeastPieceBytes, kPieceBytes);
  const std::vector<std::string_view> pieces = even_pieces_of(documents, most);
  const auto total = static_cast<int64_t>(pieces.size());
  HeldOut split;
  if (total < 2) {
    split.calibration = documents;
    return split;
  }
  const auto wanted = std::llround(share * static_cast<double>(total));
  std::vector<bool> held(pieces.size());
  for (const int64_t i : draw_indices(total, std::clamp<int64_t>(wanted, 1, total - 1), seed)) {
    held[static_cast<size_t>(i)] = true;
  }
  for (size_t i = 0; i < pieces.size(); ++i) (held[i] ? split.evaluation : split.calibration).emplace_back(pieces[i]);
  return split;
}

Result<std::vector<Tokens>> draw_sequences(const std::vector<std::string>& documents,
                                           const tokenizer::Tokenizer& tokenizer, const SequenceOptions& options) {
  if (options.count < 1 || options.length < 2 || options.length > (1 << 24) || options.count > (1 << 24)) {
    return invalid_argument(fmt::format("{} sequences of {} tokens cannot be drawn; at least 1 of 2 tokens",
                                        options.count, options.length));
  }
  std::vector<std::string_view> texts(documents.begin(), documents.end());
  const auto enough = static_cast<size_t>(enough_text(options.count, options.length));
  if (bytes_of(documents) > enough) {
    const std::vector<std::string_view> pieces = pieces_of(documents);
    const auto total = static_cast<int64_t>(pieces.size());
    std::vector<int64_t> order = draw_indices(total, total, options.seed);
    size_t taken = 0, used = 0;
    while (used < order.size() && taken < enough) taken += pieces[static_cast<size_t>(order[used++])].size();
    order.resize(used);
    std::sort(order.begin(), order.end());
    texts.clear();
    for (const int64_t i : order) texts.push_back(pieces[static_cast<size_t>(i)]);
  }

  Tokens tokens;
  for (const std::string_view text : texts) {
    const Tokens ids = tokenizer.encode(text);
    tokens.insert(tokens.end(), ids.begin(), ids.end());
  }
  const auto available = static_cast<int64_t>(tokens.size());
  if (available < options.length) {
    if (options.allow_short && available >= kShortestSequence) return std::vector<Tokens>{std::move(tokens)};
    const int64_t needed = options.allow_short ? kShortestSequence : options.length;
    const std::string shorter = options.allow_short ? "" : fmt::format(" or a smaller {}", options.shorten_with);
    return bad_input(
        fmt::format("the text has {} tokens, {} are needed; give more text{}", available, needed, shorter));
  }
  std::vector<Tokens> sequences;
  for (const int64_t window : draw_indices(available / options.length, options.count, options.seed)) {
    const auto begin = tokens.begin() + window * options.length;
    sequences.emplace_back(begin, begin + options.length);
  }
  return sequences;
}

}  // namespace autoglm::eval
