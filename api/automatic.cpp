#include "api/automatic.h"

#include <fmt/format.h>

#include <filesystem>
#include <fstream>

#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/format/display.h"
#include "core/format/file.h"

namespace autoglm::api {
namespace {

constexpr double kFirstBits = 4.5;  // per parameter, where a contract's search begins
constexpr int64_t kMaxScoresBytes = 256 << 20;
constexpr int64_t kHeaderBytesPerTensor = 180;  // of safetensors' JSON: name, type, shape, offsets

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

Status write_scores(const std::string& path, const search::Sensitivity& scores) {
  const std::string staged = path + ".part";
  std::ofstream file(staged, std::ios::binary);
  file << scores.to_json().dump(1) << '\n';
  file.close();
  std::error_code error;
  if (file) std::filesystem::rename(staged, path, error);
  if (file && !error) return ok_status();
  std::filesystem::remove(staged, error);
  return resource_exhausted(fmt::format("{}: cannot be written", format::display_path(path)));
}

// What the safetensors header of the artifact takes at most.
int64_t header_bytes(const search::Sensitivity& sensitivity) {
  int64_t bytes = 1024;
  for (const search::Group& group : sensitivity.groups) {
    for (const std::string& name : group.modules) {
      bytes += 4 * (static_cast<int64_t>(name.size()) + kHeaderBytesPerTensor);
    }
  }
  return bytes;
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
    if (out.sensitivity.fingerprint == fingerprint) return out;
    warn(fmt::format("{}: scores of another model, text or recipe; they are measured anew", settings.scores));
  }
  search::SensitivityOptions options;
  options.seed = settings.seed;
  AUTOGLM_ASSIGN_OR_RETURN(
      out.sensitivity, search::measure_sensitivity(source, settings.recipe, registry, calibration, options, cancel));
  out.sensitivity.fingerprint = fingerprint;
  if (!settings.scores.empty()) AUTOGLM_RETURN_IF_ERROR(write_scores(settings.scores, out.sensitivity));
  return out;
}

Result<int64_t> first_budget(const Settings& settings, Automatic& automatic) {
  const search::Sensitivity& sensitivity = automatic.sensitivity;
  const auto parameters = static_cast<double>(sensitivity.parameters());
  const double bits = settings.target_bits > 0 ? settings.target_bits
                      : settings.ratio > 0     ? 32 / settings.ratio
                                               : kFirstBits;
  int64_t bytes = static_cast<int64_t>(bits / 8 * parameters);
  if (settings.target_size > 0) bytes = settings.target_size - header_bytes(sensitivity);
  if (!settings.profile.empty()) {
    AUTOGLM_ASSIGN_OR_RETURN(automatic.profile, search::profile_of(settings.profile));
  } else {
    const bool fits = bytes >= search::size_range(sensitivity, search::Profile::kTransformers).smallest;
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
