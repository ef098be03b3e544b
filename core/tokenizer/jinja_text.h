#pragma once
/// Text as Python's `str` sees it: UTF-8 bytes addressed by code point, Python's idea of white space, case and repr().
/// A byte that is not part of valid UTF-8 counts as one code point of its own and is copied as it is.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace autoglm::tokenizer::jinja::text {

/// One code point of a string: its value (-1 where the bytes are not valid UTF-8) and the bytes it takes.
struct CodePoint {
  int32_t value;
  size_t size;
};

/// The code point that starts at byte `at`; `at < s.size()`.
CodePoint decode(std::string_view s, size_t at);
void append_utf8(std::string& out, uint32_t code_point);

/// Length in code points.
size_t length(std::string_view s);

/// The code points of `s`, each as its bytes.
std::vector<std::string_view> characters(std::string_view s);

bool is_space(int32_t code_point);  ///< str.isspace() of one character
bool is_ascii_digit(char c);

/// str.strip / lstrip / rstrip: of white space, or of the code points in `chars` when it is given.
std::string_view strip(std::string_view s, const std::string_view* chars = nullptr, bool left = true,
                       bool right = true);

std::string upper(std::string_view s);
std::string lower(std::string_view s);
std::string capitalize(std::string_view s);  ///< first character to title case, the rest to lower case
std::string title(std::string_view s);       ///< str.title(): every run of letters capitalized

/// str.isalpha, isdigit, isalnum, isspace, isupper, islower by name.
bool is_all(std::string_view s, std::string_view property);

/// str.splitlines()
std::vector<std::string_view> split_lines(std::string_view s, bool keep_ends = false);

std::string replace(std::string_view s, std::string_view from, std::string_view to, int64_t count = -1);

/// Python's repr() of a string and of a float.
std::string repr(std::string_view s);
std::string repr(double value);

/// The five characters that markupsafe.escape() replaces.
std::string escape_html(std::string_view s);

}  // namespace autoglm::tokenizer::jinja::text
