#include "compress/export/gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <utility>

#include "compress/export/gguf_tokenizer.h"
#include "core/base/progress.h"
#include "core/base/suggest.h"
#include "core/format/display.h"
#include "core/format/weight_rows.h"

namespace autoglm::exports {
namespace {

using format::Family;
using format::Member;
using format::ModelConfig;
using format::ModuleSpec;
using format::Role;
using format::WeightRows;

constexpr int64_t kPieceValues = 1 << 20;

/// llama.cpp's architecture for a family, and whether it wants the halves of q and k heads interleaved.
struct Architecture {
  Family family;
  std::string_view name;
  bool interleave = false;
};
constexpr Architecture kArchitectures[] = {{Family::kGlm, "chatglm"}, {Family::kChatGlm, "chatglm"},
                                           {Family::kGlm4, "glm4"},   {Family::kLlama, "llama", true},
                                           {Family::kQwen2, "qwen2"}, {Family::kQwen3, "qwen3"}};

Result<Architecture> architecture_of(const ModelConfig& config) {
  std::vector<std::string_view> known;
  for (const Architecture& one : kArchitectures) {
    if (one.family == config.family) return one;
    known.push_back(to_string(one.family));
  }
  return invalid_argument(
      fmt::format("{} is not exported to gguf yet; these are: {}", to_string(config.family), fmt::join(known, ", ")));
}

/// What llama.cpp's graphs cannot compute, or what is not written for them yet.
Status check_config(const ModelConfig& config, const Architecture& architecture) {
  const auto refuse = [&](std::string_view what) {
    return invalid_argument(fmt::format("gguf: {} in a {} model is not exported yet", what, to_string(config.family)));
  };
  if (config.rope_type != "default") return refuse(fmt::format("rope_type {}", config.rope_type));
  if (config.output_bias || config.mlp_bias) return refuse("a bias outside of q, k and v");
  if (architecture.name == "chatglm" && config.num_attention_heads * config.head_dim != config.hidden_size) {
    return refuse("heads that together are not as wide as the hidden state");
  }
  if (architecture.interleave && config.rotary_dim != config.head_dim) return refuse("partial rotary");
  return ok_status();
}

std::string_view name_of(Role role) {
  switch (role) {
    case Role::kEmbedding: return "token_embd";
    case Role::kFinalNorm: return "output_norm";
    case Role::kHead: return "output";
    case Role::kInputNorm: return "attn_norm";
    case Role::kQ: return "attn_q";
    case Role::kK: return "attn_k";
    case Role::kV: return "attn_v";
    case Role::kQkv: return "attn_qkv";
    case Role::kQNorm: return "attn_q_norm";
    case Role::kKNorm: return "attn_k_norm";
    case Role::kO: return "attn_output";
    case Role::kPostAttentionNorm: return "post_attention_norm";
    case Role::kMlpNorm: return "ffn_norm";
    case Role::kGate: return "ffn_gate";
    case Role::kUp:
    case Role::kGateUp: return "ffn_up";
    case Role::kDown: return "ffn_down";
    case Role::kPostMlpNorm: return "post_ffw_norm";
    default: return "";
  }
}

/// One tensor of the file and where its rows come from.
struct Item {
  const ModuleSpec* module;
  Member member;
  bool exact = false;       ///< integers are copied, not the floats that they stand for
  int64_t interleaved = 0;  ///< rows of a head whose halves are interleaved; 0: rows as they are
};

class GgufExport {
 public:
  GgufExport(const format::StoredModel& model, const GgufOptions& options, CancelToken& cancel)
      : model_(model), options_(options), cancel_(cancel) {}

  Result<std::pair<GgufFile, GgufReport>> run(format::StagedFile staged) {
    AUTOGLM_RETURN_IF_ERROR(plan());
    AUTOGLM_ASSIGN_OR_RETURN(const auto metadata, describe());
    AUTOGLM_ASSIGN_OR_RETURN(auto file, GgufFile::begin(std::move(staged), metadata, std::move(tensors_)));
    AUTOGLM_RETURN_IF_ERROR(for_each_piece("writing", file, [&](size_t i, int64_t first, int64_t count) -> Status {
      AUTOGLM_RETURN_IF_ERROR(encode_piece(items_[i], file.tensors()[i], first, count));
      return file.write(file.tensors()[i], first, encoded_);
    }));
    AUTOGLM_RETURN_IF_ERROR(for_each_piece("reading back", file, [&](size_t i, int64_t first, int64_t count) {
      return compare_piece(items_[i], file, file.tensors()[i], first, count);
    }));
    report_.architecture = architecture_.name;
    report_.bytes = file.bytes();
    report_.checked = std::ssize(items_);
    for (const GgufTensor& tensor : file.tensors()) ++report_.types[std::string(to_string(tensor.type))];
    return std::pair(std::move(file), std::move(report_));
  }

 private:
  Status plan() {
    AUTOGLM_ASSIGN_OR_RETURN(architecture_, architecture_of(model_.config));
    AUTOGLM_RETURN_IF_ERROR(check_config(model_.config, architecture_));
    if (std::find(gguf_types().begin(), gguf_types().end(), options_.type) == gguf_types().end()) {
      return invalid_argument(unknown_word("value of --type", options_.type, gguf_types()));
    }
    for (const ModuleSpec& module : model_.layout.modules()) {
      AUTOGLM_RETURN_IF_ERROR(plan_tensor(module, Member::kWeight).with_context(module.name));
      if (module.has_bias) AUTOGLM_RETURN_IF_ERROR(plan_tensor(module, Member::kBias).with_context(module.name));
    }
    return ok_status();
  }

  Status plan_tensor(const ModuleSpec& module, Member member) {
    Item item{&module, member};
    GgufTensor tensor;
    const std::string_view name = name_of(module.role);
    if (name.empty()) return invalid_argument("gguf: is not exported yet");
    tensor.name = fmt::format("{}{}.{}", module.layer >= 0 ? fmt::format("blk.{}.", module.layer) : "", name,
                              member == Member::kBias ? "bias" : "weight");
    tensor.shape = member == Member::kBias ? format::Shape{module.shape[0]} : module.shape;
    if (tensor.shape.size() == 2) AUTOGLM_RETURN_IF_ERROR(choose_type(module, item, tensor));
    if (architecture_.interleave && (module.role == Role::kQ || module.role == Role::kK)) {
      item.interleaved = model_.config.head_dim;
    }
    items_.push_back(item);
    tensors_.push_back(std::move(tensor));
    return ok_status();
  }

  Status choose_type(const ModuleSpec& module, Item& item, GgufTensor& tensor) const {
    const format::QuantScheme* scheme = model_.scheme_of(module);
    if (options_.type == "fp32") {
      tensor.type = GgmlType::kF32;
    } else if (options_.type == "fp16") {
      tensor.type = GgmlType::kF16;
    } else if (options_.type == "bf16") {
      tensor.type = GgmlType::kBF16;
    } else if (options_.type == "q8_0") {
      tensor.type = tensor.cols() % kBlock == 0 ? GgmlType::kQ8_0 : GgmlType::kF16;  // as llama.cpp does
    } else if (scheme == nullptr) {
      tensor.type = float_type(model_.checkpoint.find(module.weight_name())->dtype);
    } else {
      auto type = exact_type(*scheme->weights, tensor.cols());
      if (!type.ok()) {
        return {type.status().code(),
                type.status().message() + "; or export the floats that they stand for: --type fp16 or q8_0"};
      }
      tensor.type = *type;
      item.exact = true;
    }
    return ok_status();
  }

  Result<std::vector<GgufMetadata>> describe() const {
    const ModelConfig& c = model_.config;
    std::vector<GgufMetadata> out;
    const auto put = [&](std::string key, GgufValue value) { out.push_back({std::move(key), std::move(value)}); };
    const auto count = [&](std::string_view key, int64_t value) {
      put(fmt::format("{}.{}", architecture_.name, key), static_cast<uint32_t>(value));
    };
    const auto real = [&](std::string_view key, double value) {
      put(fmt::format("{}.{}", architecture_.name, key), static_cast<float>(value));
    };
    put("general.architecture", std::string(architecture_.name));
    put("general.type", std::string("model"));
    put("general.name", model_.checkpoint.folder().filename().string());
    put("general.file_type", file_type());
    if (std::any_of(tensors_.begin(), tensors_.end(), [](const GgufTensor& t) { return is_quantized(t.type); })) {
      put("general.quantization_version", uint32_t{2});
    }
    count("block_count", c.num_hidden_layers);
    count("context_length", c.max_position_embeddings);
    count("embedding_length", c.hidden_size);
    count("feed_forward_length", c.intermediate_size);
    count("attention.head_count", c.num_attention_heads);
    count("attention.head_count_kv", c.num_key_value_heads);
    count("attention.key_length", c.head_dim);
    count("attention.value_length", c.head_dim);
    count("rope.dimension_count", c.rotary_dim);
    count("vocab_size", c.vocab_size);
    real("attention.layer_norm_rms_epsilon", c.rms_norm_eps);
    real("rope.freq_base", c.rope_theta);
    AUTOGLM_ASSIGN_OR_RETURN(auto tokenizer, tokenizer_metadata(model_.checkpoint.folder(), c, options_.pre));
    std::move(tokenizer.begin(), tokenizer.end(), std::back_inserter(out));
    return out;
  }

  /// llama.cpp's number for what most weights are.
  uint32_t file_type() const {
    std::map<GgmlType, int64_t> values;
    for (const GgufTensor& tensor : tensors_) {
      if (tensor.shape.size() == 2) values[tensor.type] += tensor.rows() * tensor.cols();
    }
    const auto most = std::max_element(values.begin(), values.end(),
                                       [](const auto& a, const auto& b) { return a.second < b.second; });
    switch (most == values.end() ? GgmlType::kF32 : most->first) {
      case GgmlType::kF32: return 0;
      case GgmlType::kF16: return 1;
      case GgmlType::kQ4_0: return 2;
      case GgmlType::kQ4_1: return 3;
      case GgmlType::kQ8_0: return 7;
      case GgmlType::kQ5_0: return 8;
      case GgmlType::kQ5_1: return 9;
      case GgmlType::kBF16: return 32;
    }
    return 0;
  }

  /// Calls `work` with the index of every tensor and rows of it, whole heads where those are interleaved.
  template <typename Work>
  Status for_each_piece(const char* what, const GgufFile& file, const Work& work) {
    Progress progress(what, file.bytes());
    int64_t done = 0;
    for (size_t i = 0; i < items_.size(); ++i) {
      const GgufTensor& tensor = file.tensors()[i];
      int64_t step = std::max<int64_t>(1, kPieceValues / tensor.cols());
      if (const int64_t head = items_[i].interleaved; head > 0) step = std::max<int64_t>(1, step / head) * head;
      const int64_t rows = tensor.rows();
      for (int64_t first = 0; first < rows; first += step) {
        AUTOGLM_RETURN_IF_ERROR(cancel_.check());
        AUTOGLM_RETURN_IF_ERROR(work(i, first, std::min(step, rows - first)).with_context(items_[i].module->name));
      }
      done += tensor.bytes();
      progress.update(done);
    }
    return ok_status();
  }

  Status read_floats(const Item& item, const GgufTensor& tensor, int64_t first, int64_t count) {
    const WeightRows rows = WeightRows::of(model_, *item.module, item.member);
    const bool vector = tensor.shape.size() == 1;
    floats_.resize(static_cast<size_t>(count * tensor.cols()));
    AUTOGLM_RETURN_IF_ERROR(vector ? rows.read(0, tensor.cols(), floats_) : rows.read(first, count, floats_));
    rows.release();
    return ok_status();
  }

  Status encode_piece(const Item& item, const GgufTensor& tensor, int64_t first, int64_t count) {
    const int64_t width = row_bytes(tensor.type, tensor.cols());
    encoded_.resize(static_cast<size_t>(count * width));
    if (item.exact) {
      const format::QuantScheme* scheme = model_.scheme_of(*item.module);
      AUTOGLM_ASSIGN_OR_RETURN(const auto weight, format::decode_rows(model_.checkpoint, item.module->name, *scheme,
                                                                      model_.quantization->format_of(*scheme),
                                                                      item.module->shape, first, count));
      encode(weight, tensor.type, encoded_);
      model_.release_weight(*item.module);
    } else {
      AUTOGLM_RETURN_IF_ERROR(read_floats(item, tensor, first, count));
      encode(floats_, tensor.type, encoded_);
      AUTOGLM_RETURN_IF_ERROR(check_finite(tensor));
    }
    if (item.interleaved > 0) {
      interleave(encoded_, item.member == Member::kBias ? row_bytes(tensor.type, 1) : width, item.interleaved);
    }
    return ok_status();
  }

  Status check_finite(const GgufTensor& tensor) const {
    for (const float value : floats_) {
      const bool fits = std::isfinite(value) && (tensor.type != GgmlType::kF16 || std::abs(value) < 65520.0F);
      if (!fits)
        return bad_input(
            fmt::format("holds {}, which {} does not; name another --type", value, to_string(tensor.type)));
    }
    return ok_status();
  }

  /// Row h * head + j * head / 2 + i of the source (half j of head h) becomes row h * head + 2 * i + j: transformers'
  /// llama rotates halves, llama.cpp's neighbours. `width`: elements of a row.
  template <typename T>
  static void interleave(std::vector<T>& rows, int64_t width, int64_t head) {
    const std::vector<T> source = rows;
    const int64_t count = std::ssize(rows) / width;
    for (int64_t to = 0; to < count; ++to) {
      const int64_t within = to % head;
      const int64_t from = to - within + within % 2 * (head / 2) + within / 2;
      std::copy_n(source.begin() + from * width, width, rows.begin() + to * width);
    }
  }

  /// Decodes what the file holds as llama.cpp does, and compares with the artifact's floats.
  Status compare_piece(const Item& item, const GgufFile& file, const GgufTensor& tensor, int64_t first, int64_t count) {
    encoded_.resize(static_cast<size_t>(count * row_bytes(tensor.type, tensor.cols())));
    AUTOGLM_RETURN_IF_ERROR(file.read(tensor, first, encoded_));
    AUTOGLM_RETURN_IF_ERROR(read_floats(item, tensor, first, count));
    if (item.interleaved > 0) {
      interleave(floats_, item.member == Member::kBias ? 1 : tensor.cols(), item.interleaved);
    }
    decoded_.resize(floats_.size());
    decode(tensor.type, encoded_, decoded_);
    double difference = 0, largest = 0;
    for (size_t i = 0; i < floats_.size(); ++i) {
      difference = std::max(difference, std::abs(static_cast<double>(decoded_[i]) - floats_[i]));
      largest = std::max(largest, std::abs(static_cast<double>(floats_[i])));
    }
    if (largest > 0) report_.difference = std::max(report_.difference, difference / largest);
    return ok_status();
  }

  const format::StoredModel& model_;
  const GgufOptions& options_;
  CancelToken& cancel_;
  Architecture architecture_{};
  std::vector<Item> items_;
  std::vector<GgufTensor> tensors_;
  std::vector<float> floats_, decoded_;
  std::vector<std::byte> encoded_;
  GgufReport report_;
};

}  // namespace

const std::vector<std::string>& gguf_types() {
  static const std::vector<std::string> words = {"auto", "fp32", "fp16", "bf16", "q8_0"};
  return words;
}

Result<std::pair<GgufFile, GgufReport>> write_gguf(const format::StoredModel& model, const GgufOptions& options,
                                                   format::StagedFile file, CancelToken& cancel) {
  return GgufExport(model, options, cancel).run(std::move(file));
}

}  // namespace autoglm::exports
