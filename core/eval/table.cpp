#include "core/eval/table.h"

#include <utf8proc.h>

#include <algorithm>

namespace autoglm::eval {

std::string printable(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return text;
}

int64_t display_width(std::string_view text) {
  int64_t width = 0;
  while (!text.empty()) {
    utf8proc_int32_t code_point = 0;
    const auto size = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                       static_cast<utf8proc_ssize_t>(text.size()), &code_point);
    if (size <= 0) {
      ++width;  // a stray byte: terminals draw one replacement character
      text.remove_prefix(1);
    } else {
      width += utf8proc_charwidth(code_point);
      text.remove_prefix(static_cast<size_t>(size));
    }
  }
  return width;
}

Table::Table(std::vector<std::string> header) { rows_.push_back(std::move(header)); }

void Table::add_row(std::vector<std::string> cells) {
  cells.resize(rows_.front().size());
  for (std::string& cell : cells) cell = printable(std::move(cell));
  rows_.push_back(std::move(cells));
}

std::string Table::text() const {
  std::vector<int64_t> widths(rows_.front().size(), 0);
  for (const auto& row : rows_) {
    for (size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], display_width(row[c]));
  }
  std::string out;
  for (size_t r = 0; r < rows_.size(); ++r) {
    std::string line;
    for (size_t c = 0; c < widths.size(); ++c) {
      const std::string& cell = rows_[r][c];
      const std::string padding(static_cast<size_t>(widths[c] - display_width(cell)), ' ');
      if (c > 0) line += "  ";
      line += c == 0 ? cell + padding : padding + cell;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
    if (r == 0) {
      int64_t total = 2 * (static_cast<int64_t>(widths.size()) - 1);
      for (const int64_t width : widths) total += width;
      out += std::string(static_cast<size_t>(std::max<int64_t>(total, 0)), '-') + "\n";
    }
  }
  return out;
}

std::string Table::markdown() const {
  std::string out;
  for (size_t r = 0; r < rows_.size(); ++r) {
    out += "|";
    for (const std::string& cell : rows_[r]) {
      out += " ";
      for (const char c : cell) out += c == '|' ? std::string("\\|") : std::string(1, c);
      out += " |";
    }
    out += "\n";
    if (r == 0) {
      for (size_t c = 0; c < rows_[0].size(); ++c) out += c == 0 ? "|---|" : "---:|";
      out += "\n";
    }
  }
  return out;
}

}  // namespace autoglm::eval
