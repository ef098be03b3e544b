#include "core/eval/text_lines.h"

#include <fmt/format.h>

#include <fstream>
#include <string>
#include <system_error>

#include "core/format/display.h"
#include "core/format/json.h"
#include "core/tokenizer/utf8.h"

namespace autoglm::eval {
namespace {

namespace fs = std::filesystem;

/// Next line without its end into `line`; false at the end of the file. Reads no more than kMaxLineBytes + 1.
bool next_line(std::streambuf& in, std::string& line) {
  line.clear();
  for (int c = in.sbumpc(); c != std::streambuf::traits_type::eof(); c = in.sbumpc()) {
    if (c == '\n') return true;
    line += static_cast<char>(c);
    if (static_cast<int64_t>(line.size()) > kMaxLineBytes) return true;
  }
  return !line.empty();
}

/// The value of line `number`, whose text `line` holds.
Result<nlohmann::ordered_json> parse_line(const fs::path& path, int64_t number, std::string_view line) {
  const std::string where = fmt::format("{}:{}", format::display_path(path), number);
  if (static_cast<int64_t>(line.size()) > kMaxLineBytes) {
    return bad_input(fmt::format("{}: the line is longer than {} bytes", where, kMaxLineBytes));
  }
  auto json = format::parse_json(tokenizer::replace_invalid_utf8(number == 1 ? without_byte_order_mark(line) : line));
  if (!json.ok()) return json.status().with_context(where);
  return json;
}

Result<std::ifstream> open_lines(const fs::path& path) {
  AUTOGLM_RETURN_IF_ERROR(text_file_size(path).status());
  std::ifstream in(path, std::ios::binary);
  if (!in) return bad_input(format::display_path(path) + ": cannot be opened; check its permissions");
  return in;
}

}  // namespace

Result<int64_t> text_file_size(const fs::path& path) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) return bad_input(format::display_path(path) + ": no such file");
  const auto size = fs::file_size(path, error);
  if (error) return bad_input(fmt::format("{}: {}", format::display_path(path), error.message()));
  return static_cast<int64_t>(size);
}

std::string_view without_byte_order_mark(std::string_view text) {
  return text.substr(text.rfind("\xEF\xBB\xBF", 0) == 0 ? 3 : 0);
}

Result<nlohmann::ordered_json> first_json_line(const fs::path& path) {
  AUTOGLM_ASSIGN_OR_RETURN(std::ifstream in, open_lines(path));
  std::string line;
  next_line(*in.rdbuf(), line);
  return parse_line(path, 1, line);
}

Status for_each_json_line(const fs::path& path, const std::function<bool(int64_t)>& wanted,
                          const std::function<Status(const nlohmann::ordered_json&)>& visit) {
  AUTOGLM_ASSIGN_OR_RETURN(std::ifstream in, open_lines(path));
  std::string line;
  for (int64_t number = 1; next_line(*in.rdbuf(), line); ++number) {
    const std::string_view text = number == 1 ? without_byte_order_mark(line) : line;
    if (text.find_first_not_of(" \t\r") == std::string_view::npos || !wanted(number)) continue;
    AUTOGLM_ASSIGN_OR_RETURN(const nlohmann::ordered_json json, parse_line(path, number, line));
    AUTOGLM_RETURN_IF_ERROR(visit(json).with_context(fmt::format("{}:{}", format::display_path(path), number)));
  }
  return ok_status();
}

}  // namespace autoglm::eval
