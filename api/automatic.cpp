#include "api/automatic.h"

#include <fmt/format.h>

#include <filesystem>
#include <fstream>

#include "api/engine.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/format/checkpoint_writer.h"
#include "core/format/display.h"
#include "core/format/file.h"
#include "core/format/shard_writer.h"

namespace autoglm::api {
namespace {

constexpr double kFirstBits = 4.5;  // per parameter, where a contract's search begins
constexpr int64_t kMaxScoresBytes = 256 << 20;
constexpr std::string_view kScoresVersion = "1";  // raised when the estimate changes
constexpr int64_t kHeaderBytesPerTensor = 180;    // of safetensors' JSON: name, type, shape, offsets

// FNV-1a (Fowler, Noll, Vo 1991), 64 bits: tells scores of another model or text apart, no protection.
class Fingerprint {
 public:
  void add(std::string_view bytes) {
    for (const char c : bytes) hash_ = (hash_ ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
    hash_ = (hash_ ^ 0xff) * 0x100000001b3ULL;  // "ab", "c" is not "a", "bc"
  }
  template <typename T>
  void add(std::span<const T> values) {
    add(std::string_view(reinterpret_cast<const char*>(values.data()), values.size_bytes()));
  }
  std::string text() const { return fmt::format("{:016x}", hash_); }

 private:
  uint64_t hash_ = 0xcbf29ce484222325ULL;
};

Result<std::string> fingerprint_of(const Settings& settings, const model::Decoder& source,
                                   const std::vector<eval::Tokens>& calibration) {
  Fingerprint out;
  out.add(kScoresVersion);
  for (const std::string& word : search::all_schemes()) out.add(word);
  out.add(source.config().raw.dump());
  for (const std::string& name : source.checkpoint().names()) {
    AUTOGLM_ASSIGN_OR_RETURN(const auto bytes, source.checkpoint().bytes(name));
    out.add(name);
    out.add(bytes.first(std::min<size_t>(bytes.size(), 4096)));
  }
  for (const eval::Tokens& tokens : calibration) out.add(std::span<const int32_t>(tokens));
  const nlohmann::ordered_json recipe = settings.recipe.to_json();
  for (const char* member : {"overrides", "ignore", "embedding", "head"}) out.add(recipe[member].dump());
  out.add(std::to_string(settings.seed));
  return out.text();
}

Result<search::Sensitivity> read_scores(const std::string& path) {
  AUTOGLM_ASSIGN_OR_RETURN(const std::string text, format::read_text_file(path, kMaxScoresBytes));
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) {
    return bad_input(fmt::format("{}: no JSON (interrupted?); remove it, or name another file with --scores",
                                 format::display_path(path)));
  }
  auto scores = search::Sensitivity::from_json(json);
  if (!scores.ok()) return scores.status().with_context(path);
  return scores;
}

// What the safetensors headers of an artifact of `size` bytes take at most: what is in them, or what the writer keeps
// free for them in large files.
int64_t header_bytes(const search::Sensitivity& sensitivity, int64_t size, int64_t max_shard) {
  int64_t bytes = 64 * kHeaderBytesPerTensor + sensitivity.other_tensors * kHeaderBytesPerTensor;
  for (const search::Group& group : sensitivity.groups) {
    for (const std::string& name : group.modules) {
      bytes += 4 * (static_cast<int64_t>(name.size()) + kHeaderBytesPerTensor);
    }
  }
  if (size <= format::ShardWriter::kMovedBytes) return bytes;
  int64_t reserved = format::kFirstReserve;
  while (reserved < bytes) reserved *= 4;
  return reserved * (size / max_shard + 1);
}

Status refuse_other_scores(const std::string& path) {
  return invalid_argument(fmt::format(
      "{}: holds scores of another model, text, seed or recipe; remove it, or name another file with --scores",
      format::display_path(path)));
}

// Whether the file can be written, before the work.
Status check_writable(const std::string& path) {
  const std::string staged = path + ".part";
  const bool can = std::ofstream(staged, std::ios::binary).good();
  std::error_code error;
  std::filesystem::remove(staged, error);
  return can ? ok_status() : resource_exhausted(format::display_path(path) + ": cannot be written");
}

Status check_memory(const Settings& settings, std::string_view what, int64_t bytes, std::string_view instead) {
  const int64_t needed = current_rss_bytes() + bytes;
  const int64_t most = memory_limit(settings.max_ram);
  if (needed <= most) return ok_status();
  return resource_exhausted(fmt::format("measuring {} needs {} of memory, but {} are allowed; {}", what,
                                        format_bytes(needed), format_bytes(most), instead));
}

}  // namespace

Result<Automatic> measure_for_budget(const Settings& settings, const model::Decoder& source,
                                     const pass::Registry& registry, const std::vector<eval::Tokens>& calibration,
                                     CancelToken& cancel) {
  Automatic out;
  AUTOGLM_ASSIGN_OR_RETURN(const std::string fingerprint, fingerprint_of(settings, source, calibration));
  std::error_code error;
  if (!settings.scores.empty() && std::filesystem::exists(settings.scores, error)) {
    AUTOGLM_ASSIGN_OR_RETURN(out.sensitivity, read_scores(settings.scores));
    if (out.sensitivity.fingerprint != fingerprint) return refuse_other_scores(settings.scores);
    return out;
  }
  search::SensitivityOptions options;
  options.seed = settings.seed;
  AUTOGLM_RETURN_IF_ERROR(
      check_memory(settings, "sensitivities", search::sensitivity_bytes(source, options),
                   "name a quantization instead of a budget, or --scores that were measured elsewhere"));
  if (!settings.scores.empty()) AUTOGLM_RETURN_IF_ERROR(check_writable(settings.scores));
  out.measured = true;
  AUTOGLM_ASSIGN_OR_RETURN(
      out.sensitivity, search::measure_sensitivity(source, settings.recipe, registry, calibration, options, cancel));
  out.sensitivity.fingerprint = fingerprint;
  if (!settings.scores.empty()) {
    AUTOGLM_RETURN_IF_ERROR(format::replace_file(settings.scores, out.sensitivity.to_json().dump(1) + "\n"));
  }
  return out;
}

Result<search::Swapped> swap_formats(const Settings& settings, const pass::Recipe& recipe, const model::Decoder& source,
                                     const pass::Registry& registry, const Automatic& automatic,
                                     const search::Allocation& start, int64_t bytes,
                                     const std::vector<eval::Tokens>& calibration, const std::filesystem::path& scratch,
                                     CancelToken& cancel) {
  const search::SwapOptions options{.rounds = settings.swaps, .scratch = scratch};
  AUTOGLM_RETURN_IF_ERROR(check_memory(settings, "swaps", search::swaps_bytes(source, options), "use --swaps 0"));
  return search::measure_swaps(source, recipe, registry, automatic.sensitivity, start, bytes, automatic.profile,
                               calibration, options, cancel);
}

Result<int64_t> first_budget(const Settings& settings, Automatic& automatic) {
  const search::Sensitivity& sensitivity = automatic.sensitivity;
  const auto parameters = static_cast<double>(sensitivity.parameters);
  const double bits = settings.target_bits > 0 ? settings.target_bits
                      : settings.ratio > 0     ? 32 / settings.ratio
                                               : kFirstBits;
  int64_t bytes = static_cast<int64_t>(bits / 8 * parameters);
  if (settings.target_size > 0)
    bytes = settings.target_size - header_bytes(sensitivity, settings.target_size, settings.max_shard);
  if (!settings.profile.empty()) {
    AUTOGLM_ASSIGN_OR_RETURN(automatic.profile, search::profile_of(settings.profile));
  } else {
    const bool fits =
        !has_budget(settings) || bytes >= search::size_range(sensitivity, search::Profile::kTransformers).smallest;
    automatic.profile = fits ? search::Profile::kTransformers : search::Profile::kAny;
    if (!fits) {
      warn(
          "the budget asks for a smaller embedding too: autoglm and autoglm-edge run this artifact, transformers and "
          "vLLM do not (--profile transformers refuses instead)");
    }
  }
  const int64_t smallest = search::size_range(sensitivity, automatic.profile).smallest;
  if (!has_budget(settings)) {
    if (settings.max_kl > 0) bytes = search::size_for(sensitivity, automatic.profile, settings.max_kl);
    return std::max(bytes, smallest);
  }
  if (bytes >= smallest) return bytes;
  return invalid_argument(fmt::format(
      "the budget allows {} for weights, but the smallest that profile '{}' allows is {} ({:.2f} bits per parameter)",
      format_bytes(bytes), to_string(automatic.profile), format_bytes(smallest),
      8 * static_cast<double>(smallest) / parameters));
}

}  // namespace autoglm::api
