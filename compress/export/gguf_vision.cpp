#include "compress/export/gguf_vision.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <string_view>
#include <vector>

#include "compress/export/json_file.h"
#include "core/base/progress.h"
#include "core/base/suggest.h"
#include "core/format/display.h"

namespace autoglm::exports {
namespace {

namespace fs = std::filesystem;
using format::Shape;
using format::TensorInfo;
using Json = nlohmann::ordered_json;

constexpr int64_t kPieceValues = 1 << 20;
constexpr int64_t kFrames = 2;  // of a video, that one patch spans; llama.cpp shows a picture as both of them
constexpr int64_t kMostLayers = 512, kMostWidth = 1 << 20;

/// What the tower is made of (vision_config of transformers' Glm4v models).
struct Tower {
  int64_t hidden = 0, heads = 0, depth = 0, image = 0, patch = 0, merge = 0, text = 0;
  double eps = 0;
  std::vector<float> mean, deviation;  // of the colours of pictures
  int64_t inner = 0, merger = 0;  // widths within a block's and the merger's MLP, as their first matrices have them
};

/// A tensor of the file and where its values come from.
struct Source {
  const TensorInfo* tensor;
  std::string name;
  int64_t frame = -1;  ///< of a kernel [out, in, frames, height, width] that frame alone
};

Result<int64_t> positive(const Json& object, const char* key, int64_t most) {
  const auto member = object.find(key);
  if (member == object.end() || !member->is_number_integer() || *member < 1 || *member > most) {
    return bad_input(fmt::format("config.json: vision_config.{} is no whole number from 1 to {}", key, most));
  }
  return member->get<int64_t>();
}

/// Three numbers that say how pictures are coloured.
Result<std::vector<float>> colours(const Json& object, const char* key, std::vector<float> usual, bool is_divisor) {
  const auto member = object.find(key);
  if (member == object.end()) return usual;
  const bool is_three =
      member->is_array() && member->size() == 3 && std::all_of(member->begin(), member->end(), [&](const Json& one) {
        return one.is_number() && std::abs(one.get<double>()) < 1e6 && (!is_divisor || one.get<double>() > 1e-6);
      });
  if (!is_three) return bad_input(fmt::format("{} of the image processor is no list of three numbers it can be", key));
  return member->get<std::vector<float>>();
}

/// The image processor's settings: a file of its own in most checkpoints, a member of processor_config.json in others.
Result<Json> read_processor(const fs::path& folder) {
  std::error_code error;
  if (fs::exists(folder / "preprocessor_config.json", error))
    return read_json_object<Json>(folder / "preprocessor_config.json");
  if (!fs::exists(folder / "processor_config.json", error)) return Json::object();
  AUTOGLM_ASSIGN_OR_RETURN(Json whole, read_json_object<Json>(folder / "processor_config.json"));
  const auto images = whole.find("image_processor");
  return images != whole.end() && images->is_object() ? Json(*images) : Json::object();
}

Result<Tower> read_tower(const format::StoredModel& model) {
  const fs::path folder = model.checkpoint.folder();
  AUTOGLM_ASSIGN_OR_RETURN(const Json root, read_json_object<Json>(folder / "config.json"));
  const auto config = root.find("vision_config");
  if (config == root.end() || !config->is_object()) {
    return invalid_argument("gguf --mmproj: config.json has no vision_config: this model reads text alone");
  }
  Tower tower{.text = model.config.hidden_size};
  AUTOGLM_ASSIGN_OR_RETURN(tower.hidden, positive(*config, "hidden_size", kMostWidth));
  AUTOGLM_ASSIGN_OR_RETURN(tower.heads, positive(*config, "num_heads", kMostWidth));
  AUTOGLM_ASSIGN_OR_RETURN(tower.depth, positive(*config, "depth", kMostLayers));
  AUTOGLM_ASSIGN_OR_RETURN(tower.image, positive(*config, "image_size", kMostWidth));
  AUTOGLM_ASSIGN_OR_RETURN(tower.patch, positive(*config, "patch_size", kMostWidth));
  AUTOGLM_ASSIGN_OR_RETURN(tower.merge, positive(*config, "spatial_merge_size", kMostWidth));
  const auto eps = config->find("rms_norm_eps");
  tower.eps = eps != config->end() && eps->is_number() ? eps->get<double>() : 1e-5;
  if (!(tower.eps > 0 && tower.eps < 1))
    return bad_input("config.json: vision_config.rms_norm_eps is not between 0 and 1");
  const auto refuse = [](std::string_view what) {
    return invalid_argument(fmt::format("gguf --mmproj: {}, which llama.cpp does not compute", what));
  };
  if (config->value("hidden_act", Json("silu")) != "silu") return refuse("an activation other than silu");
  if (config->value("temporal_patch_size", Json(kFrames)) != kFrames) return refuse("patches of other than two frames");
  if (tower.hidden % tower.heads != 0) return refuse("heads that do not divide the width");

  AUTOGLM_ASSIGN_OR_RETURN(const Json pictures, read_processor(folder));
  // Without them, what transformers' Glm4vImageProcessor has: OpenAI CLIP's.
  AUTOGLM_ASSIGN_OR_RETURN(tower.mean, colours(pictures, "image_mean", {0.48145466F, 0.4578275F, 0.40821073F}, false));
  AUTOGLM_ASSIGN_OR_RETURN(tower.deviation,
                           colours(pictures, "image_std", {0.26862954F, 0.26130258F, 0.27577711F}, true));
  return tower;
}

class VisionExport {
 public:
  VisionExport(const format::StoredModel& model, CancelToken& cancel)
      : checkpoint_(model.checkpoint), cancel_(cancel) {}

  Status plan(Tower& tower, std::optional<GgmlType> type) {
    type_ = type;
    AUTOGLM_RETURN_IF_ERROR(find_prefix());
    tower.inner = rows_of("blocks.0.mlp.gate_proj.weight");
    tower.merger = rows_of("merger.gate_proj.weight");
    const int64_t h = tower.hidden, p = tower.patch, m = tower.merge, side = tower.image / tower.patch;
    for (int64_t frame = 0; frame < kFrames; ++frame) {
      const std::string name = frame == 0 ? "v.patch_embd.weight" : "v.patch_embd.weight.1";
      AUTOGLM_RETURN_IF_ERROR(add("patch_embed.proj.weight", name, {h, 3, kFrames, p, p}, frame));
    }
    AUTOGLM_RETURN_IF_ERROR(add("patch_embed.proj.bias", "v.patch_embd.bias", {h}));
    AUTOGLM_RETURN_IF_ERROR(add("post_conv_layernorm.weight", "v.norm_embd.weight", {h}));
    AUTOGLM_RETURN_IF_ERROR(add("embeddings.position_embedding.weight", "v.position_embd.weight", {side * side, h}));
    for (int64_t layer = 0; layer < tower.depth; ++layer) AUTOGLM_RETURN_IF_ERROR(add_block(layer, h, tower.inner));
    AUTOGLM_RETURN_IF_ERROR(add("post_layernorm.weight", "v.post_ln.weight", {h}));
    AUTOGLM_RETURN_IF_ERROR(add("downsample.weight", "mm.patch_merger.weight", {tower.text, h, m, m}));
    AUTOGLM_RETURN_IF_ERROR(add("downsample.bias", "mm.patch_merger.bias", {tower.text}));
    AUTOGLM_RETURN_IF_ERROR(add("merger.proj.weight", "mm.model.fc.weight", {tower.text, tower.text}));
    for (const char* part : {"weight", "bias"}) {
      AUTOGLM_RETURN_IF_ERROR(
          add(fmt::format("merger.post_projection_norm.{}", part), fmt::format("mm.post_norm.{}", part), {tower.text}));
    }
    AUTOGLM_RETURN_IF_ERROR(add("merger.gate_proj.weight", "mm.gate.weight", {tower.merger, tower.text}));
    AUTOGLM_RETURN_IF_ERROR(add("merger.up_proj.weight", "mm.up.weight", {tower.merger, tower.text}));
    AUTOGLM_RETURN_IF_ERROR(add("merger.down_proj.weight", "mm.down.weight", {tower.text, tower.merger}));
    return check_rest();
  }

  Result<std::pair<GgufFile, GgufReport>> run(const std::vector<GgufMetadata>& metadata, const fs::path& output,
                                              bool overwrite) {
    AUTOGLM_ASSIGN_OR_RETURN(auto staged, format::StagedFile::create(output, overwrite));
    AUTOGLM_ASSIGN_OR_RETURN(auto file, GgufFile::begin(std::move(staged), metadata, tensors_));
    AUTOGLM_RETURN_IF_ERROR(for_each_piece("writing", file, [&](const Piece& piece) -> Status {
      encode(floats_, piece.tensor.cols(), {}, piece.tensor.type, encoded_);
      return file.write(piece.tensor, piece.first, encoded_);
    }));
    AUTOGLM_RETURN_IF_ERROR(
        for_each_piece("reading back", file, [&](const Piece& piece) { return compare(file, piece); }));
    report_.architecture = "clip";
    report_.bytes = file.bytes();
    report_.checked = std::ssize(tensors_);
    for (const GgufTensor& tensor : tensors_) ++report_.types[std::string(to_string(tensor.type))];
    return std::pair(std::move(file), std::move(report_));
  }

  /// llama.cpp's number for what the matrices are.
  uint32_t file_type() const {
    const auto matrix = std::find_if(tensors_.begin(), tensors_.end(),
                                     [](const GgufTensor& tensor) { return tensor.name == "mm.model.fc.weight"; });
    return matrix->type == GgmlType::kF16 ? 1 : matrix->type == GgmlType::kBF16 ? 32 : 0;
  }

 private:
  /// Of the tower's tensors: "model.visual." in newer checkpoints, "visual." in older ones.
  Status find_prefix() {
    constexpr std::string_view kFirst = "patch_embed.proj.weight";
    for (const std::string& name : checkpoint_.names()) {
      if (!name.ends_with(kFirst) || !name.substr(0, name.size() - kFirst.size()).ends_with("visual.")) continue;
      prefix_ = name.substr(0, name.size() - kFirst.size());
      return ok_status();
    }
    return bad_input(fmt::format("{}: no tensor visual.{}, which vision_config speaks of",
                                 format::display_path(checkpoint_.folder()), kFirst));
  }

  Status add_block(int64_t layer, int64_t h, int64_t inner) {
    struct Part {
      std::string_view theirs, ours;
      Shape shape;
    };
    const Part parts[] = {{"norm1", "ln1", {h}},
                          {"attn.qkv", "attn_qkv", {3 * h, h}},
                          {"attn.proj", "attn_out", {h, h}},
                          {"norm2", "ln2", {h}},
                          {"mlp.up_proj", "ffn_up", {inner, h}},
                          {"mlp.gate_proj", "ffn_gate", {inner, h}},
                          {"mlp.down_proj", "ffn_down", {h, inner}}};
    for (const auto& [theirs, ours, shape] : parts) {
      const std::string from = fmt::format("blocks.{}.{}", layer, theirs), to = fmt::format("v.blk.{}.{}", layer, ours);
      AUTOGLM_RETURN_IF_ERROR(add(from + ".weight", to + ".weight", shape));
      if (checkpoint_.find(prefix_ + from + ".bias") != nullptr) {
        AUTOGLM_RETURN_IF_ERROR(add(from + ".bias", to + ".bias", {shape[0]}));
      }
    }
    return ok_status();
  }

  /// Of the tower's matrix; 0 where it is missing.
  int64_t rows_of(const std::string& name) const {
    const TensorInfo* tensor = checkpoint_.find(prefix_ + name);
    return tensor != nullptr && !tensor->shape.empty() ? tensor->shape[0] : 0;
  }

  Status add(const std::string& from, const std::string& to, const Shape& shape, int64_t frame = -1) {
    const TensorInfo* tensor = checkpoint_.find(prefix_ + from);
    if (tensor == nullptr) return bad_input(fmt::format("the tensor {}{} is missing", prefix_, from));
    const bool fits =
        tensor->shape == shape && std::all_of(shape.begin(), shape.end(), [](int64_t n) { return n > 0; });
    if (!fits) {
      return bad_input(fmt::format("{}: is [{}] beside [{}] by vision_config", format::display(tensor->name),
                                   fmt::join(tensor->shape, ", "), fmt::join(shape, ", ")));
    }
    if (!format::is_float(tensor->dtype)) {
      return bad_input(fmt::format("{}: is {}, not a float", format::display(tensor->name), to_string(tensor->dtype)));
    }
    const bool is_matrix = shape.size() == 2 && to != "v.position_embd.weight";
    GgufTensor out{.name = to, .shape = tensor->shape};
    if (is_matrix) out.type = type_.value_or(float_type(tensor->dtype));
    if (frame >= 0) out.shape.erase(out.shape.begin() + 2);
    sources_.push_back({tensor, prefix_ + from, frame});
    tensors_.push_back(std::move(out));
    return ok_status();
  }

  /// Nothing of the tower may be left out.
  Status check_rest() const {
    std::set<std::string_view> known;
    for (const Source& source : sources_) known.insert(source.name);
    for (const std::string& name : checkpoint_.names()) {
      if (!name.starts_with(prefix_) || known.contains(name)) continue;
      return invalid_argument(fmt::format("gguf --mmproj: llama.cpp has no place for {}", format::display(name)));
    }
    return ok_status();
  }

  /// Rows [first, first + count) of a tensor, whose values stand in floats_.
  struct Piece {
    const Source& source;
    const GgufTensor& tensor;
    int64_t first, count;
  };

  template <typename Work>
  Status for_each_piece(const char* what, const GgufFile& file, const Work& work) {
    Progress progress(what, file.bytes());
    int64_t done = 0;
    for (size_t i = 0; i < sources_.size(); ++i) {
      const GgufTensor& tensor = file.tensors()[i];
      const int64_t step = std::max<int64_t>(1, kPieceValues / tensor.cols());
      for (int64_t first = 0; first < tensor.rows(); first += step) {
        AUTOGLM_RETURN_IF_ERROR(cancel_.check());
        const Piece piece{sources_[i], tensor, first, std::min(step, tensor.rows() - first)};
        AUTOGLM_RETURN_IF_ERROR(read_floats(piece));
        encoded_.resize(static_cast<size_t>(piece.count * row_bytes(tensor.type, tensor.cols())));
        AUTOGLM_RETURN_IF_ERROR(work(piece).with_context(piece.source.name));
      }
      checkpoint_.release(sources_[i].name);
      done += tensor.bytes();
      progress.update(done);
    }
    return ok_status();
  }

  Status read_floats(const Piece& piece) {
    AUTOGLM_ASSIGN_OR_RETURN(const auto bytes, checkpoint_.bytes(piece.source.name));
    const int64_t cols = piece.tensor.cols(), width = format::size_of(piece.source.tensor->dtype);
    floats_.resize(static_cast<size_t>(piece.count * cols));
    const auto take = [&](int64_t from, std::span<float> out) {
      const auto part = bytes.subspan(static_cast<size_t>(from * width), out.size() * static_cast<size_t>(width));
      format::to_float(piece.source.tensor->dtype, part, out);
    };
    if (piece.source.frame < 0) {
      take(piece.first * cols, floats_);
      return ok_status();
    }
    // Rows of a kernel's pictures, of which each stands beside another frame's.
    for (int64_t r = 0; r < piece.count; ++r) {
      const int64_t row = piece.first + r, height = piece.tensor.shape[2], picture = row / height, line = row % height;
      take(((picture * kFrames + piece.source.frame) * height + line) * cols,
           std::span(floats_).subspan(static_cast<size_t>(r * cols), static_cast<size_t>(cols)));
    }
    return ok_status();
  }

  Status compare(const GgufFile& file, const Piece& piece) {
    constexpr double kRounding = 1.0 / 64;  // more is a value that the type does not hold
    AUTOGLM_RETURN_IF_ERROR(file.read(piece.tensor, piece.first, encoded_));
    for (const float value : floats_) {
      if (!std::isfinite(value)) return bad_input(fmt::format("holds {}; the checkpoint is damaged", value));
    }
    const Difference difference = difference_from(piece.tensor.type, encoded_, floats_);
    if (!difference.finite || difference.share() > kRounding) {
      return bad_input(fmt::format("{} is beyond what {} holds; name another --type", difference.largest,
                                   to_string(piece.tensor.type)));
    }
    report_.difference = std::max(report_.difference, difference.share());
    return ok_status();
  }

  const format::Checkpoint& checkpoint_;
  CancelToken& cancel_;
  std::optional<GgmlType> type_;
  std::string prefix_;
  std::vector<Source> sources_;
  std::vector<GgufTensor> tensors_;
  std::vector<float> floats_;
  std::vector<std::byte> encoded_;
  GgufReport report_;
};

std::vector<GgufMetadata> describe(const Tower& tower, const VisionExport& tensors) {
  const auto count = [](std::string_view key, int64_t value) {
    return GgufMetadata{fmt::format("clip.vision.{}", key), static_cast<uint32_t>(value)};
  };
  return {{"general.architecture", std::string("clip")},
          {"general.type", std::string("mmproj")},
          {"general.file_type", tensors.file_type()},
          {"clip.has_vision_encoder", true},
          {"clip.projector_type", std::string("glm4v")},
          {"clip.use_silu", true},
          count("embedding_length", tower.hidden),
          count("feed_forward_length", tower.inner),
          count("block_count", tower.depth),
          count("projection_dim", tower.text),
          count("attention.head_count", tower.heads),
          {"clip.vision.attention.layer_norm_epsilon", static_cast<float>(tower.eps)},
          count("image_size", tower.image),
          count("patch_size", tower.patch),
          count("spatial_merge_size", tower.merge),
          {"clip.vision.image_mean", tower.mean},
          {"clip.vision.image_std", tower.deviation}};
}

}  // namespace

Result<std::pair<GgufFile, GgufReport>> write_gguf_vision(const format::StoredModel& model, const std::string& type,
                                                          const fs::path& output, bool overwrite, CancelToken& cancel) {
  const std::vector<std::string> words = {"auto", "fp32", "fp16", "bf16"};
  if (std::find(words.begin(), words.end(), type) == words.end()) {
    return invalid_argument(unknown_word("value of --type for a vision part", type, words));
  }
  std::optional<GgmlType> named;
  if (type != "auto") named = type == "fp32" ? GgmlType::kF32 : type == "fp16" ? GgmlType::kF16 : GgmlType::kBF16;
  AUTOGLM_ASSIGN_OR_RETURN(Tower tower, read_tower(model));
  VisionExport tensors(model, cancel);
  AUTOGLM_RETURN_IF_ERROR(tensors.plan(tower, named));
  return tensors.run(describe(tower, tensors), output, overwrite);
}

}  // namespace autoglm::exports
