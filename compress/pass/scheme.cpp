#include "compress/pass/scheme.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "core/base/suggest.h"

namespace autoglm::pass {
namespace {

constexpr int64_t kDefaultGroupSize = 128;
constexpr int64_t kLeastGroupSize = 8;  // taken in place of the default
constexpr int64_t kMaxGroupSize = 1 << 20;

std::vector<std::string_view> split(std::string_view word) {
  std::vector<std::string_view> parts;
  for (size_t start = 0;;) {
    const size_t dash = word.find('-', start);
    parts.push_back(word.substr(start, dash - start));
    if (dash == std::string_view::npos) return parts;
    start = dash + 1;
  }
}

const std::vector<std::string> kOptions = {"g32", "g64",        "g128",   "channel", "tensor", "asym",
                                           "sym", "restricted", "minmax", "mse",     "static"};

bool is_width(char c) { return c >= '2' && c <= '8'; }

/// The kind's defaults; false for an unknown kind.
bool set_kind(std::string_view kind, Scheme& scheme) {
  if (kind == "fp16" || kind == "bf16" || kind == "fp32") {
    scheme.cast = kind == "fp16" ? format::DType::kF16 : kind == "bf16" ? format::DType::kBF16 : format::DType::kF32;
    return true;
  }
  if (kind == "w8a8") {
    scheme.weights.num_bits = 8;
    scheme.activations = format::QuantArgs{
        .num_bits = 8, .symmetric = true, .strategy = format::Strategy::kToken, .group_size = 0, .dynamic = true};
  } else if (kind.size() == 4 && kind.starts_with("int") && is_width(kind[3])) {
    scheme.weights.num_bits = kind[3] - '0';
  } else {
    return false;
  }
  const bool grouped = scheme.weights.num_bits <= 4;
  scheme.weights.strategy = grouped ? format::Strategy::kGroup : format::Strategy::kChannel;
  scheme.weights.group_size = grouped ? kDefaultGroupSize : 0;
  return true;
}

/// The kind that other software's word stands for: w4a16, 4, q4, 4bit, float16; "" for what is no such word.
std::string meant_kind(std::string_view word) {
  const auto integer = [](char digit) { return fmt::format("int{}", digit); };
  if (word.size() == 5 && word[0] == 'w' && is_width(word[1]) && word.ends_with("a16")) return integer(word[1]);
  if (word.size() == 2 && word[0] == 'q' && is_width(word[1])) return integer(word[1]);
  if (!word.empty() && is_width(word[0]) && (word.size() == 1 || word.ends_with("bit"))) return integer(word[0]);
  if (word == "float16" || word == "half") return "fp16";
  return word == "bfloat16" ? "bf16" : word == "float32" ? "fp32" : "";
}

Status unknown_kind(std::string_view word) {
  const std::string meant = meant_kind(word);
  if (!meant.empty()) return invalid_argument(fmt::format("unknown quantization '{}'; say '{}'", word, meant));
  if (word.starts_with("int") && word.find_first_not_of("0123456789", 3) == std::string_view::npos) {
    return invalid_argument(fmt::format("unknown quantization '{}'; integers have 2 to 8 bits: int2..int8", word));
  }
  static const std::vector<std::string> kinds = {"int2", "int3", "int4",        "int5", "int6", "int7",
                                                 "int8", "w8a8", "w8a8-static", "fp16", "bf16", "fp32"};
  return invalid_argument(unknown_word("quantization", word, kinds));
}

/// The divisor of `cols` that is nearest to `size` by their ratio, at least 2 where there is one.
int64_t nearest_divisor(int64_t cols, int64_t size) {
  int64_t best = cols;
  const auto ratio = [&](int64_t divisor) {
    const double r = static_cast<double>(divisor) / static_cast<double>(size);
    return r < 1 ? 1 / r : r;
  };
  for (int64_t divisor = 2; divisor <= std::min(cols, kMaxGroupSize); ++divisor) {
    if (cols % divisor == 0 && ratio(divisor) < ratio(best)) best = divisor;
  }
  return best;
}

/// The number of "g<N>"; nothing for another word, 0 for a number out of range.
std::optional<int64_t> group_size_of(std::string_view option) {
  if (option.size() < 2 || option[0] != 'g') return std::nullopt;
  int64_t size = 0;
  const auto [end, error] = std::from_chars(option.data() + 1, option.data() + option.size(), size);
  if (end != option.data() + option.size()) return std::nullopt;
  return error == std::errc() && size >= 2 && size <= kMaxGroupSize ? size : 0;
}

}  // namespace

Result<Scheme> Scheme::parse(std::string_view word) {
  const std::vector<std::string_view> parts = split(word);
  Scheme scheme;
  if (!set_kind(parts[0], scheme)) return unknown_kind(parts[0]);
  const auto wrong = [&](std::string_view option, std::string_view why) {
    return invalid_argument(fmt::format("quantization '{}': '{}' {}", word, option, why));
  };
  bool scope_given = false, symmetry_given = false, search_given = false;
  for (size_t i = 1; i < parts.size(); ++i) {
    const std::string_view option = parts[i];
    if (scheme.cast) return wrong(option, "means nothing for a float type");
    bool* given = nullptr;
    if (const auto size = group_size_of(option)) {
      if (*size == 0) return wrong(option, fmt::format("is no group size; use g2 to g{}", kMaxGroupSize));
      scheme.weights.strategy = format::Strategy::kGroup;
      scheme.weights.group_size = *size;
      scheme.group_size_given = true;
      given = &scope_given;
    } else if (option == "channel" || option == "tensor") {
      scheme.weights.strategy = option == "channel" ? format::Strategy::kChannel : format::Strategy::kTensor;
      scheme.weights.group_size = 0;
      given = &scope_given;
    } else if (option == "asym" || option == "sym") {
      scheme.weights.symmetric = option == "sym";
      given = &symmetry_given;
    } else if (option == "minmax" || option == "mse") {
      scheme.search = option == "mse" ? ScaleSearch::kMse : ScaleSearch::kMinMax;
      given = &search_given;
    } else if (option == "static" && !scheme.calibrates_input()) {
      if (!scheme.activations) return wrong(option, "is for quantized activations: w8a8-static");
      scheme.activations->strategy = format::Strategy::kTensor;
      scheme.activations->dynamic = false;
      continue;
    } else if (option == "restricted" && !scheme.restricted) {
      scheme.restricted = true;
      continue;
    } else {
      return invalid_argument(fmt::format("quantization '{}': {}", word, unknown_word("option", option, kOptions)));
    }
    if (*given) return wrong(option, "contradicts or repeats an earlier part");
    *given = true;
  }
  if (scheme.restricted && !scheme.weights.symmetric) return wrong("restricted", "is for symmetric schemes alone");
  if (scheme.activations && scheme.weights.strategy == format::Strategy::kGroup) {
    return wrong(fmt::format("g{}", scheme.weights.group_size),
                 "is not loaded by other software beside quantized activations; use channel or tensor");
  }
  return scheme;
}

std::string Scheme::to_string() const {
  if (cast) return *cast == format::DType::kF16 ? "fp16" : *cast == format::DType::kBF16 ? "bf16" : "fp32";
  std::string word = activations ? "w8a8" : fmt::format("int{}", weights.num_bits);
  Scheme usual;
  set_kind(word, usual);
  if (weights.strategy == format::Strategy::kGroup) {
    if (group_size_given || weights.strategy != usual.weights.strategy ||
        weights.group_size != usual.weights.group_size) {
      word += fmt::format("-g{}", weights.group_size);
    }
  } else if (weights.strategy != usual.weights.strategy) {
    word += weights.strategy == format::Strategy::kChannel ? "-channel" : "-tensor";
  }
  if (!weights.symmetric) word += "-asym";
  if (restricted) word += "-restricted";
  if (calibrates_input()) word += "-static";
  if (search == ScaleSearch::kMinMax) word += "-minmax";
  return word;
}

Status Scheme::fit_group_size(int64_t cols) {
  if (weights.strategy != format::Strategy::kGroup || cols % weights.group_size == 0) return ok_status();
  if (group_size_given) {
    return invalid_argument(fmt::format("a group size of {} does not divide its {} input columns; {} does",
                                        weights.group_size, cols, nearest_divisor(cols, weights.group_size)));
  }
  int64_t size = weights.group_size;
  while (size > 1 && cols % size != 0) size /= 2;
  if (size < kLeastGroupSize) {
    return invalid_argument(fmt::format(
        "no usual group size divides its {} input columns; use one scale per channel (int{}-channel) or name "
        "a size (int{}-gN)",
        cols, weights.num_bits, weights.num_bits));
  }
  weights.group_size = size;
  return ok_status();
}

format::QuantScheme Scheme::stored() const {
  format::QuantScheme out;
  out.weights = weights;
  out.input_activations = activations;
  out.format = format();
  return out;
}

std::string_view Scheme::format() const {
  if (cast) return "";
  return activations ? "int-quantized" : "pack-quantized";
}

}  // namespace autoglm::pass
