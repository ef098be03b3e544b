#pragma once
/// GgufReader: a GGUF file (gguf_file.h says how it is made up; versions 2 and 3), mapped.
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "compress/export/gguf_file.h"
#include "core/base/status.h"
#include "core/format/mapped_file.h"

namespace autoglm::exports {

/// What a header says, checked against the length of the file.
struct GgufHeader {
  /// Whole numbers of all widths, and those of arrays, are int64_t; reals are double.
  using Value = std::variant<bool, int64_t, double, std::string, std::vector<int64_t>, std::vector<double>,
                             std::vector<std::string>>;
  std::map<std::string, Value, std::less<>> metadata;
  std::vector<GgufTensor> tensors;  ///< of the types of ggml_block.h
};

/// Checks a whole file in memory: every length, count, type, size and place, no name twice, no tensors that overlap.
/// kBadInput names the key or the tensor at fault, not the file.
Result<GgufHeader> parse_gguf(std::span<const std::byte> file);

/// Immutable; thread-safe.
class GgufReader {
 public:
  /// kBadInput names the file too.
  static Result<GgufReader> open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  const std::vector<GgufTensor>& tensors() const { return header_.tensors; }
  const GgufTensor* find(std::string_view name) const;  ///< nullptr when absent

  /// The value of a key as T; nothing when it is absent. kBadInput: it is of another kind.
  template <typename T>
  Result<std::optional<T>> get(std::string_view key) const {
    const auto found = header_.metadata.find(key);
    if (found == header_.metadata.end()) return std::optional<T>();
    if (const T* value = std::get_if<T>(&found->second)) return std::optional<T>(*value);
    return wrong_kind(key);
  }

  /// The same of a key that must be there; kBadInput names it.
  template <typename T>
  Result<T> needed(std::string_view key) const {
    AUTOGLM_ASSIGN_OR_RETURN(auto value, get<T>(key));
    if (value) return std::move(*value);
    return missing(key);
  }

  /// kBadInput: what of the file cannot be made into a folder.
  Status refuse(std::string_view what) const;

  /// Rows [first, first + count) of a tensor as floats; `out` holds count * cols of them. The pages that were read are
  /// given back.
  void read(const GgufTensor& tensor, int64_t first, int64_t count, std::span<float> out) const;

 private:
  GgufReader(std::filesystem::path path, format::MappedFile file, GgufHeader header);
  Status wrong_kind(std::string_view key) const;
  Status missing(std::string_view key) const;

  std::filesystem::path path_;
  format::MappedFile file_;
  GgufHeader header_;
  std::map<std::string, size_t, std::less<>> index_;
};

}  // namespace autoglm::exports
