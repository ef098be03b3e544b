#pragma once
/// Table: rows of text for a terminal or for Markdown.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace autoglm::eval {

/// The first column is aligned to the left, the others to the right. Cells may hold UTF-8; a character counts as one
/// column, East Asian wide ones as two. Control characters are shown as '?', so that a name from a file cannot draw.
class Table {
 public:
  explicit Table(std::vector<std::string> header);

  /// Short rows are filled with empty cells; cells beyond the header are dropped.
  void add_row(std::vector<std::string> cells);
  bool empty() const { return rows_.size() == 1; }

  std::string text() const;      ///< columns two spaces apart, a rule under the header, a newline after each row
  std::string markdown() const;  ///< a pipe table; '|' in cells is escaped

 private:
  std::vector<std::vector<std::string>> rows_;  // the header first
};

/// `text` with its control characters as '?'.
std::string printable(std::string text);

/// Columns that `text` takes on a terminal.
int64_t display_width(std::string_view text);

}  // namespace autoglm::eval
