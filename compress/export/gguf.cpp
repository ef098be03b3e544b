#include "compress/export/gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <optional>
#include <utility>

#include "compress/export/gguf_layout.h"
#include "compress/export/gguf_tokenizer.h"
#include "compress/export/input_statistics.h"
#include "core/base/progress.h"
#include "core/base/suggest.h"
#include "core/format/display.h"
#include "core/format/rope.h"
#include "core/format/weight_rows.h"

namespace autoglm::exports {
namespace {

using format::Member;
using format::ModelConfig;
using format::ModuleSpec;
using format::Role;
using format::WeightRows;

constexpr int64_t kPieceValues = 1 << 20;
constexpr int64_t kMostLayers = 512;  // of llama.cpp

/// What llama.cpp's graphs cannot compute, or what is not written for them yet.
Status check_config(const ModelConfig& config, const Architecture& architecture) {
  const auto refuse = [&](std::string_view what) {
    const bool fixed = format::has_fixed_frequencies(config), is_chatglm = config.family == format::Family::kChatGlm;
    const std::string_view others = !fixed       ? is_chatglm ? "" : "; --format hf can hold it"
                                    : is_chatglm ? "; --format onnx, tensorrt or torchscript can hold it"
                                                 : "; --format onnx, tensorrt, torchscript or hf can hold it";
    return invalid_argument(
        fmt::format("gguf: {} in a {} model is not exported yet{}", what, to_string(config.family), others));
  };
  const bool is_llama = architecture.name == "llama";
  if (config.rope_type != "default" && config.rope_type != "linear" && !(config.rope_type == "llama3" && is_llama)) {
    return refuse(fmt::format("rope_type {}", config.rope_type));
  }
  if ((config.output_bias || config.mlp_bias) && !is_llama) return refuse("a bias outside of q, k and v");
  // llama.cpp masks the other groups in another way: a small model differed by a KL of 2e-5 in float32.
  if (config.n_group > 1) return refuse("routing by groups of experts");
  if (config.num_hidden_layers > kMostLayers) return refuse(fmt::format("more than {} layers", kMostLayers));
  if ((architecture.name == "chatglm" || architecture.name == "qwen2") &&
      config.num_attention_heads * config.head_dim != config.hidden_size) {
    return refuse("heads that together are not as wide as the hidden state");
  }
  const bool whole_heads = architecture.order == HeadOrder::kInterleaved || architecture.name == "qwen3";
  if (whole_heads && config.rotary_dim != config.head_dim) return refuse("partial rotary");
  return ok_status();
}

/// One tensor of the file and where its rows come from: one module, or all experts one above the other.
struct Item {
  std::vector<const ModuleSpec*> modules;
  Member member = Member::kWeight;
  bool exact = false;              ///< integers are copied, not the floats that they stand for
  bool is_head = false;            ///< rows of heads, which are put into llama.cpp's order
  std::vector<float> values = {};  ///< of a vector that no module has: they stand in place of modules

  int64_t parts() const { return std::max<int64_t>(1, std::ssize(modules)); }
};

/// The words of --type that name one.
constexpr std::pair<std::string_view, GgmlType> kNamedTypes[] = {
    {"fp32", GgmlType::kF32},  {"fp16", GgmlType::kF16},  {"bf16", GgmlType::kBF16}, {"q8_0", GgmlType::kQ8_0},
    {"q6_k", GgmlType::kQ6_K}, {"q5_k", GgmlType::kQ5_K}, {"q4_k", GgmlType::kQ4_K}, {"q3_k", GgmlType::kQ3_K},
    {"q2_k", GgmlType::kQ2_K}, {"q5_1", GgmlType::kQ5_1}, {"q5_0", GgmlType::kQ5_0}, {"q4_1", GgmlType::kQ4_1},
    {"q4_0", GgmlType::kQ4_0}};

/// None for "auto".
std::optional<GgmlType> named_type(std::string_view word) {
  for (const auto& [name, type] : kNamedTypes) {
    if (name == word) return type;
  }
  return std::nullopt;
}

/// That type, or what stands in for it: embedding and head have at least Q6_K, and rows that are no whole super-blocks
/// fall back, as llama.cpp's own tool has it (Q4_0 for its IQ4_NL).
GgmlType fitting(GgmlType type, Role role, int64_t cols) {
  const bool is_coarse = is_quantized(type) && type != GgmlType::kQ8_0;
  if ((role == Role::kEmbedding || role == Role::kHead) && is_coarse) type = GgmlType::kQ6_K;
  if (cols % block_values(type) != 0) {
    switch (type) {
      case GgmlType::kQ2_K:
      case GgmlType::kQ3_K: type = GgmlType::kQ4_0; break;
      case GgmlType::kQ4_K: type = GgmlType::kQ5_0; break;
      case GgmlType::kQ5_K: type = GgmlType::kQ5_1; break;
      case GgmlType::kQ6_K: type = GgmlType::kQ8_0; break;
      default: break;
    }
  }
  return cols % block_values(type) != 0 ? GgmlType::kF16 : type;
}

class GgufExport {
 public:
  GgufExport(const format::StoredModel& model, const GgufOptions& options, CancelToken& cancel)
      : model_(model), options_(options), cancel_(cancel) {}

  Result<std::pair<GgufFile, GgufReport>> run(const std::filesystem::path& output, bool overwrite) {
    AUTOGLM_RETURN_IF_ERROR(plan());
    AUTOGLM_ASSIGN_OR_RETURN(statistics_, InputStatistics::open(model_));
    AUTOGLM_ASSIGN_OR_RETURN(const auto metadata, describe());
    AUTOGLM_ASSIGN_OR_RETURN(auto staged, format::StagedFile::create(output, overwrite));
    AUTOGLM_ASSIGN_OR_RETURN(auto file, GgufFile::begin(std::move(staged), metadata, std::move(tensors_)));
    AUTOGLM_RETURN_IF_ERROR(for_each_piece("writing", file, [&](const Piece& piece) -> Status {
      AUTOGLM_RETURN_IF_ERROR(encode_piece(piece));
      return file.write(piece.tensor, piece.row(), encoded_);
    }));
    AUTOGLM_RETURN_IF_ERROR(
        for_each_piece("reading back", file, [&](const Piece& piece) { return compare_piece(file, piece); }));
    report_.architecture = architecture_.name;
    report_.bytes = file.bytes();
    report_.checked = std::ssize(items_);
    for (const GgufTensor& tensor : file.tensors()) ++report_.types[std::string(to_string(tensor.type))];
    return std::pair(std::move(file), std::move(report_));
  }

 private:
  Status plan() {
    architecture_ = architecture_of(model_.config.family);
    AUTOGLM_RETURN_IF_ERROR(check_config(model_.config, architecture_));
    if (std::find(gguf_types().begin(), gguf_types().end(), options_.type) == gguf_types().end()) {
      return invalid_argument(unknown_word("value of --type", options_.type, gguf_types()));
    }
    for (const ModuleSpec& module : model_.layout.modules()) {
      if (module.expert > 0) continue;  // with the first
      AUTOGLM_RETURN_IF_ERROR(plan_tensor(module, Member::kWeight).with_context(module.name));
      if (module.has_bias) AUTOGLM_RETURN_IF_ERROR(plan_tensor(module, Member::kBias).with_context(module.name));
    }
    if (model_.config.rope_type == "llama3") plan_rope_table();
    report_.left_out = std::ssize(model_.layout.others(model_.checkpoint));
    return ok_status();
  }

  /// What llama.cpp divides each pair's frequency by.
  void plan_rope_table() {
    ModelConfig plain = model_.config;
    plain.rope_type = "default";
    const auto scaled = format::rope_inverse_frequencies(model_.config),
               usual = format::rope_inverse_frequencies(plain);
    Item item;
    for (size_t i = 0; i < scaled.size(); ++i) item.values.push_back(static_cast<float>(usual[i] / scaled[i]));
    tensors_.push_back({.name = "rope_freqs.weight", .shape = {std::ssize(item.values)}});
    items_.push_back(std::move(item));
  }

  Status plan_tensor(const ModuleSpec& module, Member member) {
    Item item{.modules = {&module}, .member = member};
    GgufTensor tensor;
    tensor.name = gguf_name(architecture_, module, member == Member::kBias);
    tensor.shape = member == Member::kBias ? format::Shape{module.shape[0]} : module.shape;
    if (tensor.shape.size() == 2 && module.role != Role::kRouter) {
      AUTOGLM_RETURN_IF_ERROR(choose_type(module, item.exact, tensor));
    }
    if (is_routed_expert(module.role)) AUTOGLM_RETURN_IF_ERROR(add_experts(module, item, tensor));
    item.is_head = has_ordered_heads(architecture_, module.role);
    items_.push_back(std::move(item));
    tensors_.push_back(std::move(tensor));
    return ok_status();
  }

  Status add_experts(const ModuleSpec& first, Item& item, GgufTensor& tensor) {
    const int64_t experts = model_.config.n_routed_experts;
    for (int64_t expert = 1; expert < experts; ++expert) {
      const ModuleSpec* module = model_.layout.find(first.role, first.layer, expert);
      GgufTensor alike = tensor;
      bool exact = false;
      AUTOGLM_RETURN_IF_ERROR(choose_type(*module, exact, alike).with_context(module->name));
      if (alike.type != tensor.type || exact != item.exact) {
        return invalid_argument(
            fmt::format("expert {} is stored as {} and the first as {}; GGUF wants one type for all: "
                        "--type fp16 or q8_0",
                        expert, to_string(alike.type), to_string(tensor.type)));
      }
      item.modules.push_back(module);
    }
    tensor.shape.insert(tensor.shape.begin(), experts);
    return ok_status();
  }

  Status choose_type(const ModuleSpec& module, bool& exact, GgufTensor& tensor) {
    const format::QuantScheme* scheme = model_.scheme_of(module);
    if (scheme != nullptr && scheme->input_activations) report_.had_activations = true;
    if (const auto type = named_type(options_.type)) {
      tensor.type = fitting(*type, module.role, tensor.cols());
    } else if (scheme == nullptr) {
      tensor.type = float_type(model_.checkpoint.find(module.weight_name())->dtype);
    } else {
      auto type = exact_type(*scheme->weights, tensor.cols());
      if (!type.ok()) {
        return {type.status().code(),
                type.status().message() + "; or export the floats that they stand for: --type fp16 or q8_0"};
      }
      tensor.type = *type;
      exact = true;
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
    put("general.name", std::filesystem::absolute(model_.checkpoint.folder() / "x")
                            .lexically_normal()
                            .parent_path()
                            .filename()
                            .string());
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
    if (c.rope_type == "linear") {
      put(fmt::format("{}.rope.scaling.type", architecture_.name), std::string("linear"));
      real("rope.scaling.factor", c.rope_parameters.at("factor").get<double>());
    }
    if (c.n_routed_experts > 0) {
      count("expert_count", c.n_routed_experts);
      count("expert_used_count", c.num_experts_per_tok);
      count("expert_feed_forward_length", c.moe_intermediate_size);
      count("expert_shared_count", c.n_shared_experts);
      count("leading_dense_block_count", c.first_k_dense_replace);
      count("expert_gating_func", 2);  // sigmoid
      real("expert_weights_scale", c.routed_scaling_factor);
      put(fmt::format("{}.expert_weights_norm", architecture_.name), c.norm_topk_prob);
    }
    if (architecture_.order == HeadOrder::kHalves) {
      std::vector<int32_t> sections(c.mrope_section.begin(), c.mrope_section.end());
      sections.resize(4);
      put(fmt::format("{}.rope.dimension_sections", architecture_.name), std::move(sections));
    }
    AUTOGLM_ASSIGN_OR_RETURN(auto tokenizer, tokenizer_metadata(model_.checkpoint.folder(), c, options_.pre));
    std::move(tokenizer.begin(), tokenizer.end(), std::back_inserter(out));
    return out;
  }

  /// llama.cpp's number for what most weights are.
  uint32_t file_type() const {
    std::map<GgmlType, int64_t> values;
    for (const GgufTensor& tensor : tensors_) {
      if (tensor.shape.size() >= 2) values[tensor.type] += tensor.rows() * tensor.cols();
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
      case GgmlType::kQ2_K: return 10;
      case GgmlType::kQ3_K: return 11;
      case GgmlType::kQ4_K: return 14;
      case GgmlType::kQ5_K: return 16;
      case GgmlType::kQ6_K: return 18;
    }
    return 0;
  }

  /// Rows [first, first + count) of the module `part` of an item.
  struct Piece {
    const Item& item;
    const GgufTensor& tensor;
    size_t part;
    int64_t first, count;
    const ModuleSpec& module() const { return *item.modules[part]; }
    const std::string& name() const { return item.modules.empty() ? tensor.name : module().name; }
    int64_t row() const { return static_cast<int64_t>(part) * (tensor.rows() / item.parts()) + first; }
    int64_t width() const { return row_bytes(tensor.type, tensor.cols()); }
  };

  /// Calls `work` with all rows of all tensors, piece by piece; with whole heads where those are put into order.
  template <typename Work>
  Status for_each_piece(const char* what, const GgufFile& file, const Work& work) {
    Progress progress(what, file.bytes());
    int64_t done = 0;
    for (size_t i = 0; i < items_.size(); ++i) {
      const Item& item = items_[i];
      const GgufTensor& tensor = file.tensors()[i];
      const int64_t rows = tensor.rows() / item.parts();
      int64_t step = std::max<int64_t>(1, kPieceValues / tensor.cols());
      if (const int64_t head = model_.config.head_dim; item.is_head) step = std::max<int64_t>(1, step / head) * head;
      for (size_t part = 0; part < static_cast<size_t>(item.parts()); ++part) {
        for (int64_t first = 0; first < rows; first += step) {
          AUTOGLM_RETURN_IF_ERROR(cancel_.check());
          const Piece piece{item, tensor, part, first, std::min(step, rows - first)};
          AUTOGLM_RETURN_IF_ERROR(work(piece).with_context(piece.name()));
        }
      }
      done += tensor.bytes();
      progress.update(done);
    }
    return ok_status();
  }

  Status read_floats(const Piece& piece) {
    if (!piece.item.values.empty()) {
      floats_ = piece.item.values;
      return ok_status();
    }
    const WeightRows rows = WeightRows::of(model_, piece.module(), piece.item.member);
    const bool vector = piece.tensor.shape.size() == 1;
    const int64_t cols = piece.tensor.cols();
    floats_.resize(static_cast<size_t>(piece.count * cols));
    AUTOGLM_RETURN_IF_ERROR(vector ? rows.read(0, cols, floats_) : rows.read(piece.first, piece.count, floats_));
    rows.release();
    return ok_status();
  }

  Status encode_piece(const Piece& piece) {
    encoded_.resize(static_cast<size_t>(piece.count * piece.width()));
    if (piece.item.exact) {
      const ModuleSpec& module = piece.module();
      AUTOGLM_ASSIGN_OR_RETURN(const auto weight, format::decode_rows(model_, module, piece.first, piece.count));
      encode(weight, piece.tensor.type, encoded_);
      model_.release_weight(module);
    } else {
      AUTOGLM_RETURN_IF_ERROR(read_floats(piece));
      if (piece.first == 0) weigh(piece);
      encode(floats_, piece.tensor.cols(), importance_, piece.tensor.type, encoded_);
    }
    if (piece.item.is_head)
      reorder_heads(architecture_.order, model_.config,
                    piece.tensor.shape.size() == 1 ? row_bytes(piece.tensor.type, 1) : piece.width(), false, encoded_);
    return ok_status();
  }

  /// Finds how much each column of a module matters, where its scales are searched. A tenth of the mean is the least,
  /// so that no column is given up for what calibration happened not to see.
  void weigh(const Piece& piece) {
    constexpr float kLeast = 0.1F;
    importance_.clear();
    if (!is_quantized(piece.tensor.type) || piece.tensor.type == GgmlType::kQ8_0) return;
    const auto power = statistics_->power(piece.module());
    if (!power) return;
    importance_ = *power;
    const double mean = std::accumulate(power->begin(), power->end(), 0.0) / static_cast<double>(power->size());
    for (float& weight : importance_) weight = std::max(static_cast<float>(weight / mean), kLeast);
    if (piece.part == 0) ++report_.weighted;
  }

  /// Of a tensor's largest value, what rounding to a type may make; more is a scale that FP16 does not hold.
  static double most_difference(GgmlType type) {
    return !is_quantized(type) || type == GgmlType::kQ8_0 ? 1.0 / 64 : 0.75;
  }

  /// The first that is no number, else the largest.
  static float largest_of(std::span<const float> values) {
    const auto bad = std::find_if(values.begin(), values.end(), [](float value) { return !std::isfinite(value); });
    if (bad != values.end()) return *bad;
    return *std::max_element(values.begin(), values.end(), [](float a, float b) { return std::abs(a) < std::abs(b); });
  }

  static Status not_held(float value, const GgufTensor& tensor) {
    if (!std::isfinite(value)) return bad_input(fmt::format("holds {}; the checkpoint is damaged", value));
    return bad_input(
        fmt::format("{} or its scale is beyond what {} holds; name another --type", value, to_string(tensor.type)));
  }

  /// Decodes what the file holds as llama.cpp does, and compares with the artifact's floats.
  Status compare_piece(const GgufFile& file, const Piece& piece) {
    encoded_.resize(static_cast<size_t>(piece.count * piece.width()));
    AUTOGLM_RETURN_IF_ERROR(file.read(piece.tensor, piece.row(), encoded_));
    AUTOGLM_RETURN_IF_ERROR(read_floats(piece));
    if (piece.item.is_head) {
      reorder_heads(architecture_.order, model_.config, piece.tensor.shape.size() == 1 ? 1 : piece.tensor.cols(), false,
                    floats_);
    }
    const Difference difference = difference_from(piece.tensor.type, encoded_, floats_);
    const bool is_held = difference.finite && difference.share() <= most_difference(piece.tensor.type);
    if (!is_held) return not_held(largest_of(floats_), piece.tensor);
    report_.difference = std::max(report_.difference, difference.share());
    return ok_status();
  }

  const format::StoredModel& model_;
  const GgufOptions& options_;
  CancelToken& cancel_;
  Architecture architecture_{};
  std::vector<Item> items_;
  std::vector<GgufTensor> tensors_;
  std::optional<InputStatistics> statistics_;
  std::vector<float> floats_, importance_;
  std::vector<std::byte> encoded_;
  GgufReport report_;
};

}  // namespace

const std::vector<std::string>& gguf_types() {
  static const std::vector<std::string> words = [] {
    std::vector<std::string> all = {"auto"};
    for (const auto& [name, type] : kNamedTypes) all.emplace_back(name);
    return all;
  }();
  return words;
}

Result<std::pair<GgufFile, GgufReport>> write_gguf(const format::StoredModel& model, const GgufOptions& options,
                                                   const std::filesystem::path& output, bool overwrite,
                                                   CancelToken& cancel) {
  return GgufExport(model, options, cancel).run(output, overwrite);
}

}  // namespace autoglm::exports
