#include "compress/export/gguf_import.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "compress/export/gguf_layout.h"
#include "compress/export/gguf_tokenizer.h"
#include "core/base/progress.h"
#include "core/format/display.h"
#include "core/format/rope.h"
#include "core/format/stored_model.h"
#include "core/tokenizer/tokenizer.h"

namespace autoglm::exports {
namespace {

using format::DType;
using format::Family;
using format::ModelConfig;
using format::ModuleSpec;
using format::Role;
using Json = nlohmann::ordered_json;
using Bytes = std::span<const std::byte>;

constexpr int64_t kPieceValues = 1 << 20;
constexpr const char* kRopeTable = "rope_freqs.weight";

std::string_view class_of(Family family) {
  switch (family) {
    case Family::kGlm: return "GlmForCausalLM";
    case Family::kGlm4: return "Glm4ForCausalLM";
    case Family::kGlm4Moe: return "Glm4MoeForCausalLM";
    case Family::kLlama: return "LlamaForCausalLM";
    case Family::kQwen2: return "Qwen2ForCausalLM";
    case Family::kQwen3: return "Qwen3ForCausalLM";
    default: return "";
  }
}

/// config.json of the model in a file.
class ConfigReader {
 public:
  ConfigReader(const GgufReader& reader, const Architecture& architecture)
      : reader_(reader), architecture_(architecture) {}

  Result<ModelConfig> read(DType dtype) {
    const Family family = architecture_.family;
    json_ = {{"architectures", {class_of(family)}}, {"model_type", to_string(family)}};
    AUTOGLM_RETURN_IF_ERROR(sizes());
    AUTOGLM_RETURN_IF_ERROR(rotary());
    if (family == Family::kGlm4Moe) AUTOGLM_RETURN_IF_ERROR(experts());
    json_["hidden_act"] = "silu";
    json_["tie_word_embeddings"] = reader_.find("output.weight") == nullptr;
    AUTOGLM_ASSIGN_OR_RETURN(const TokenizerIds ids, tokenizer_ids(reader_));
    json_["eos_token_id"] = ids.eos;
    json_["pad_token_id"] =
        ids.pad ? Json(*ids.pad) : Json(nullptr);  // absent: the family's, beyond small vocabularies
    if (ids.bos) json_["bos_token_id"] = *ids.bos;
    auto config = ModelConfig::parse(json_.dump());
    if (!config.ok()) return config.status().with_context(format::display_path(reader_.path()));
    config->dtype = dtype;  // which to_json words
    AUTOGLM_RETURN_IF_ERROR(check_table(*config));
    return config;
  }

 private:
  Status refuse(std::string_view what) const { return reader_.refuse(what); }

  Status rotary() {
    AUTOGLM_ASSIGN_OR_RETURN(const auto scaling, reader_.get<std::string>(key("rope.scaling.type")));
    AUTOGLM_ASSIGN_OR_RETURN(const auto named, real("rope.scaling.factor"));
    AUTOGLM_ASSIGN_OR_RETURN(const auto older, real("rope.scale_linear"));
    const double factor = named.value_or(older.value_or(1));
    if (scaling.value_or("linear") == "linear" && factor != 0 && factor != 1) {
      json_["rope_scaling"] = {{"rope_type", "linear"}, {"factor", factor}};
    } else if (scaling && *scaling != "none" && *scaling != "linear") {
      return refuse("rotary scaling of type " + format::display(*scaling));
    }
    if (reader_.find(kRopeTable) != nullptr) AUTOGLM_RETURN_IF_ERROR(rotary_table());
    AUTOGLM_ASSIGN_OR_RETURN(const auto sections, reader_.get<std::vector<int64_t>>(key("rope.dimension_sections")));
    if (sections) return refuse("the text half of a vision model");
    return ok_status();
  }

  /// What divides the frequencies. Of the parameters that gave it, a file has none: the factor is what the slowest are
  /// divided by, and the bounds are those of every release of Llama 3; `check_table` sees whether they are.
  Status rotary_table() {
    const GgufTensor& tensor = *reader_.find(kRopeTable);
    if (architecture_.family != Family::kLlama || json_.contains("rope_scaling")) {
      return refuse("a table of rotary frequencies (rope_freqs)");
    }
    if (tensor.type != GgmlType::kF32 || tensor.shape.size() != 1 ||
        2 * tensor.cols() != json_["head_dim"].get<int64_t>()) {
      return refuse_table();
    }
    table_.resize(static_cast<size_t>(tensor.cols()));
    reader_.read(tensor, 0, 1, table_);
    if (!(table_.back() >= 1 && table_.back() < 1e6F)) return refuse_table();
    json_["rope_scaling"] = {{"rope_type", "llama3"},
                             {"factor", table_.back()},
                             {"low_freq_factor", 1.0},
                             {"high_freq_factor", 4.0},
                             {"original_max_position_embeddings", 8192}};
    return ok_status();
  }

  Status refuse_table() const { return refuse("rotary frequencies (rope_freqs) that are not Llama 3's"); }

  Status check_table(const ModelConfig& config) const {
    if (table_.empty()) return ok_status();
    constexpr double kRounding = 1e-5;
    ModelConfig plain = config;
    plain.rope_type = "default";
    const auto scaled = format::rope_inverse_frequencies(config), usual = format::rope_inverse_frequencies(plain);
    if (scaled.size() != table_.size()) return refuse_table();
    for (size_t i = 0; i < table_.size(); ++i) {
      if (!(std::abs(usual[i] / scaled[i] - table_[i]) <= kRounding * table_[i])) return refuse_table();
    }
    return ok_status();
  }

  std::string key(std::string_view name) const { return fmt::format("{}.{}", architecture_.name, name); }

  Result<std::optional<int64_t>> whole(std::string_view name) const { return reader_.get<int64_t>(key(name)); }
  /// As the shortest decimal that is the same float: 1e-05, not 9.999999747378752e-06.
  Result<std::optional<double>> real(std::string_view name) const {
    AUTOGLM_ASSIGN_OR_RETURN(const auto value, reader_.get<double>(key(name)));
    if (!value) return value;
    if (!(std::abs(*value) <= std::numeric_limits<float>::max())) {
      return bad_input(fmt::format("{}: metadata {} is {}", format::display_path(reader_.path()), key(name), *value));
    }
    return std::optional(std::strtod(fmt::format("{}", static_cast<float>(*value)).c_str(), nullptr));
  }
  Result<int64_t> needed(std::string_view name) const { return reader_.needed<int64_t>(key(name)); }

  Status sizes() {
    const GgufTensor* embedding = reader_.find("token_embd.weight");
    if (embedding == nullptr || embedding->shape.size() != 2) return refuse("a file without token_embd.weight");
    AUTOGLM_ASSIGN_OR_RETURN(const int64_t blocks, needed("block_count"));
    AUTOGLM_ASSIGN_OR_RETURN(const auto extra, whole("nextn_predict_layers"));  // block_count has them too
    AUTOGLM_ASSIGN_OR_RETURN(const int64_t hidden, needed("embedding_length"));
    AUTOGLM_ASSIGN_OR_RETURN(const int64_t heads, needed("attention.head_count"));
    AUTOGLM_ASSIGN_OR_RETURN(const auto kv_heads, whole("attention.head_count_kv"));
    AUTOGLM_ASSIGN_OR_RETURN(const auto key_length, whole("attention.key_length"));
    AUTOGLM_ASSIGN_OR_RETURN(const auto rotated, whole("rope.dimension_count"));
    AUTOGLM_ASSIGN_OR_RETURN(const int64_t context, needed("context_length"));
    AUTOGLM_ASSIGN_OR_RETURN(const int64_t intermediate, needed("feed_forward_length"));
    AUTOGLM_ASSIGN_OR_RETURN(const auto eps, real("attention.layer_norm_rms_epsilon"));
    AUTOGLM_ASSIGN_OR_RETURN(const auto base, real("rope.freq_base"));
    if (heads < 1 || !eps || extra.value_or(0) < 0 || extra.value_or(0) >= blocks) {
      return bad_input(fmt::format("{}: {} blocks, {} heads and {} cannot be a model",
                                   format::display_path(reader_.path()), blocks, heads,
                                   eps ? "a norm's epsilon" : "no epsilon of its norms"));
    }
    const int64_t head_dim = key_length.value_or(hidden / heads);
    const bool has_bias =
        reader_.find("blk.0.attn_q.bias") != nullptr || reader_.find("blk.0.attn_qkv.bias") != nullptr;
    json_.update({{"vocab_size", embedding->shape[0]},
                  {"hidden_size", hidden},
                  {"intermediate_size", intermediate},
                  {"num_hidden_layers", blocks - extra.value_or(0)},
                  {"num_attention_heads", heads},
                  {"num_key_value_heads", kv_heads.value_or(heads)},
                  {"head_dim", head_dim},
                  {"max_position_embeddings", context},
                  {"rms_norm_eps", *eps},
                  {"rope_theta", base.value_or(10000)}});
    if (architecture_.family != Family::kQwen2) json_["attention_bias"] = has_bias;
    const bool is_glm = architecture_.family == Family::kGlm || architecture_.family == Family::kGlm4 ||
                        architecture_.family == Family::kGlm4Moe;
    if (is_glm && head_dim > 0) {
      json_["partial_rotary_factor"] = static_cast<double>(rotated.value_or(head_dim)) / static_cast<double>(head_dim);
    } else if (rotated && *rotated != head_dim) {
      return refuse("partial rotary");
    }
    return ok_status();
  }

  Status experts() {
    AUTOGLM_ASSIGN_OR_RETURN(const int64_t count, needed("expert_count"));
    AUTOGLM_ASSIGN_OR_RETURN(const int64_t used, needed("expert_used_count"));
    AUTOGLM_ASSIGN_OR_RETURN(const int64_t width, needed("expert_feed_forward_length"));
    AUTOGLM_ASSIGN_OR_RETURN(const auto shared, whole("expert_shared_count"));
    AUTOGLM_ASSIGN_OR_RETURN(const auto dense, whole("leading_dense_block_count"));
    AUTOGLM_ASSIGN_OR_RETURN(const auto gating, whole("expert_gating_func"));
    AUTOGLM_ASSIGN_OR_RETURN(const auto scale, real("expert_weights_scale"));
    AUTOGLM_ASSIGN_OR_RETURN(const auto normed, reader_.get<bool>(key("expert_weights_norm")));
    AUTOGLM_ASSIGN_OR_RETURN(const auto groups, whole("expert_group_count"));
    if (groups.value_or(1) > 1) return refuse("routing by groups of experts");
    if (gating.value_or(2) != 2) return refuse("routing by another function than sigmoid");
    json_.update({{"n_routed_experts", count},
                  {"num_experts_per_tok", used},
                  {"moe_intermediate_size", width},
                  {"n_shared_experts", shared.value_or(0)},
                  {"first_k_dense_replace", dense.value_or(0)},
                  {"norm_topk_prob", normed.value_or(false)},
                  {"routed_scaling_factor", scale.value_or(1)},
                  {"use_qk_norm", reader_.find("blk.0.attn_q_norm.weight") != nullptr}});
    return ok_status();
  }

  const GgufReader& reader_;
  const Architecture& architecture_;
  Json json_;
  std::vector<float> table_;  ///< what divides the frequencies; empty: nothing
};

/// Where the values of a module's tensor are in the file.
struct Source {
  const GgufTensor* tensor = nullptr;
  int64_t first = 0;  ///< row of a matrix, value of a vector
};

/// The values of one tensor, as they are to be written, a few rows at a time.
class Pieces {
 public:
  /// All outlive it. `source` has the module's rows, perhaps among others.
  Pieces(const GgufReader& reader, const Architecture& architecture, const ModelConfig& config,
         const ModuleSpec& module, bool is_bias, const Source& source, DType dtype)
      : reader_(reader),
        architecture_(architecture),
        config_(config),
        source_(source),
        dtype_(dtype),
        rows_(module.shape[0]) {
    const bool is_vector = is_bias || module.shape.size() == 1;
    cols_ = is_vector ? 1 : module.shape[1];
    step_ = is_vector ? rows_ : std::max<int64_t>(1, kPieceValues / cols_);
    is_head_ = has_ordered_heads(architecture, module.role);
    if (is_head_ && !is_vector) step_ = std::max<int64_t>(1, step_ / config.head_dim) * config.head_dim;  // whole heads
  }

  /// Empty at the end; valid until the next call.
  Result<Bytes> next() {
    const int64_t count = std::min(step_, rows_ - done_);
    if (count == 0) return Bytes();
    values_.resize(static_cast<size_t>(count * cols_));
    if (source_.tensor->shape.size() == 1) {
      std::vector<float> whole(static_cast<size_t>(source_.tensor->cols()));
      reader_.read(*source_.tensor, 0, 1, whole);
      std::copy_n(whole.begin() + source_.first, count, values_.begin());
    } else {
      reader_.read(*source_.tensor, source_.first + done_, count, values_);
    }
    if (is_head_) reorder_heads(architecture_.order, config_, cols_, true, values_);
    bytes_.resize(values_.size() * static_cast<size_t>(format::size_of(dtype_)));
    format::from_float(dtype_, values_, bytes_);
    if (const int64_t at = format::first_non_finite(dtype_, bytes_); at >= 0) {
      const float value = values_[static_cast<size_t>(at)];
      const std::string what = std::isfinite(value)
                                   ? fmt::format("which {} does not hold; name another --type", to_string(dtype_))
                                   : "the file is damaged, fetch or convert it again";
      return bad_input(fmt::format("{}: tensor {} holds {}: {}", format::display_path(reader_.path()),
                                   format::display(source_.tensor->name), value, what));
    }
    for (const float value : values_) {
      const double rounded = format::rounded_to(dtype_, value);
      difference_ = std::max(difference_, std::abs(rounded - static_cast<double>(value)));
      largest_ = std::max(largest_, std::abs(static_cast<double>(value)));
    }
    done_ += count;
    return Bytes(bytes_);
  }

  /// What rounding moved so far, as a share of the largest value.
  double rounding() const { return largest_ > 0 ? difference_ / largest_ : 0; }

 private:
  const GgufReader& reader_;
  const Architecture& architecture_;
  const ModelConfig& config_;
  Source source_;
  DType dtype_;
  int64_t rows_, cols_ = 1, step_ = 1, done_ = 0;
  bool is_head_ = false;
  std::vector<float> values_;
  std::vector<std::byte> bytes_;
  double difference_ = 0, largest_ = 0;
};

class GgufImport {
 public:
  GgufImport(const GgufReader& reader, DType dtype, format::CheckpointWriter& writer, CancelToken& cancel)
      : reader_(reader), writer_(writer), cancel_(cancel) {
    report_.dtype = dtype;
  }

  Result<GgufImportReport> run() {
    AUTOGLM_ASSIGN_OR_RETURN(const auto name, reader_.get<std::string>("general.architecture"));
    const auto architecture = architecture_named(name.value_or(""));
    if (!architecture) {
      return bad_input(fmt::format("{}: is of the architecture {}; read are {}", format::display_path(reader_.path()),
                                   format::display(name.value_or("")), fmt::join(known_architectures(), ", ")));
    }
    architecture_ = *architecture;
    report_.architecture = architecture_.name;
    report_.family = to_string(architecture_.family);
    AUTOGLM_ASSIGN_OR_RETURN(config_, ConfigReader(reader_, architecture_).read(report_.dtype));
    layout_ = format::TensorLayout::describe(config_);
    AUTOGLM_RETURN_IF_ERROR(find_sources());
    AUTOGLM_RETURN_IF_ERROR(write_small_files());
    AUTOGLM_RETURN_IF_ERROR(check_tokenizer());
    AUTOGLM_RETURN_IF_ERROR(
        for_each_tensor("writing", [&](const ModuleSpec& module, bool is_bias) { return write(module, is_bias); }));
    AUTOGLM_RETURN_IF_ERROR(writer_.finish());
    AUTOGLM_ASSIGN_OR_RETURN(const auto written, format::StoredModel::open(writer_.staging()));
    AUTOGLM_RETURN_IF_ERROR(for_each_tensor("reading back", [&](const ModuleSpec& module, bool is_bias) {
      return compare(written.checkpoint, module, is_bias);
    }));
    for (const GgufTensor& tensor : reader_.tensors()) ++report_.types[std::string(to_string(tensor.type))];
    report_.left_out = std::ssize(reader_.tensors()) - std::ssize(used_);
    return report_;
  }

 private:
  /// Before anything large is written: every module has its tensor, and every tensor its place.
  Status find_sources() {
    for (const ModuleSpec& module : layout_.modules()) {
      AUTOGLM_RETURN_IF_ERROR(source_of(module, false).status());
      if (module.has_bias) AUTOGLM_RETURN_IF_ERROR(source_of(module, true).status());
    }
    if (reader_.find(kRopeTable) != nullptr) used_.insert(kRopeTable);  // in config.json
    return refuse_what_is_left();
  }

  Status write_small_files() {
    AUTOGLM_RETURN_IF_ERROR(writer_.write_file("config.json", config_.to_json({})));
    AUTOGLM_ASSIGN_OR_RETURN(const auto files, tokenizer_files(reader_, config_.vocab_size));
    for (const auto& [name, text] : files) AUTOGLM_RETURN_IF_ERROR(writer_.write_file(name, text));
    return writer_.write_file("generation_config.json", Json({{"eos_token_id", config_.eos_token_ids}}).dump(2) + "\n");
  }

  /// Only layers after the decoder's may be left out (MTP): all else takes part in what llama.cpp computes.
  Status refuse_what_is_left() const {
    for (const GgufTensor& tensor : reader_.tensors()) {
      if (used_.contains(tensor.name)) continue;
      int64_t layer = -1;
      const char* const end = tensor.name.data() + tensor.name.size();
      if (tensor.name.starts_with("blk.")) std::from_chars(tensor.name.data() + 4, end, layer);
      if (layer >= config_.num_hidden_layers) continue;
      return bad_input(fmt::format("{}: tensor {} has no place in a {} model; start from the Hugging Face folder",
                                   format::display_path(reader_.path()), format::display(tensor.name),
                                   to_string(config_.family)));
    }
    return ok_status();
  }

  /// What was written is a tokenizer; what is wrong with it is wrong with the file.
  Status check_tokenizer() const {
    const Status status = tokenizer::Tokenizer::load(writer_.staging()).status();
    if (status.ok()) return ok_status();
    std::string message = status.message();
    const std::string folder = format::display_path(writer_.staging()) + "/";
    if (const size_t at = message.find(folder); at != std::string::npos) message.erase(at, folder.size());
    return Status(status.code(), message).with_context(format::display_path(reader_.path()));
  }

  template <typename Work>
  Status for_each_tensor(const char* what, const Work& work) {
    Progress progress(what, std::ssize(layout_.modules()));
    int64_t done = 0;
    for (const ModuleSpec& module : layout_.modules()) {
      AUTOGLM_RETURN_IF_ERROR(work(module, false));
      if (module.has_bias) AUTOGLM_RETURN_IF_ERROR(work(module, true));
      progress.update(++done);
    }
    return ok_status();
  }

  Status mismatch(const std::string& name, const ModuleSpec& module) const {
    return bad_input(fmt::format("{}: tensor {} is missing or of another shape than its metadata asks for, [{}]",
                                 format::display_path(reader_.path()), format::display(name),
                                 fmt::join(module.shape, ", ")));
  }

  Result<Source> source_of(const ModuleSpec& module, bool is_bias) {
    std::string name = gguf_name(architecture_, module, is_bias);
    Source source{reader_.find(name)};
    int64_t rows = module.shape[0];
    const bool part_of_qkv = module.role == Role::kQ || module.role == Role::kK || module.role == Role::kV;
    if (source.tensor == nullptr && part_of_qkv) {
      name = fmt::format("blk.{}.attn_qkv.{}", module.layer, is_bias ? "bias" : "weight");
      source.tensor = reader_.find(name);
      const int64_t q = config_.num_attention_heads * config_.head_dim,
                    kv = config_.num_key_value_heads * config_.head_dim;
      source.first = module.role == Role::kQ ? 0 : module.role == Role::kK ? q : q + kv;
      rows = q + 2 * kv;
    }
    if (source.tensor == nullptr) return mismatch(name, module);
    const GgufTensor& tensor = *source.tensor;
    format::Shape expected =
        is_bias || module.shape.size() == 1 ? format::Shape{rows} : format::Shape{rows, module.shape[1]};
    if (is_routed_expert(module.role)) {
      expected.insert(expected.begin(), config_.n_routed_experts);
      source.first = module.expert * rows;
    }
    // A vector is taken apart value by value, which integers of blocks are not.
    if (tensor.shape != expected || (expected.size() == 1 && is_quantized(tensor.type))) return mismatch(name, module);
    used_.insert(name);
    return source;
  }

  Status write(const ModuleSpec& module, bool is_bias) {
    AUTOGLM_ASSIGN_OR_RETURN(const Source source, source_of(module, is_bias));
    Pieces pieces(reader_, architecture_, config_, module, is_bias, source, report_.dtype);
    const format::Shape shape = is_bias ? format::Shape{module.shape[0]} : module.shape;
    AUTOGLM_RETURN_IF_ERROR(writer_.add_streamed(is_bias ? module.bias_name() : module.weight_name(), report_.dtype,
                                                 shape, [&] { return pieces.next(); }));
    report_.rounding = std::max(report_.rounding, pieces.rounding());
    return ok_status();
  }

  Status compare(const format::Checkpoint& written, const ModuleSpec& module, bool is_bias) {
    const std::string name = is_bias ? module.bias_name() : module.weight_name();
    AUTOGLM_ASSIGN_OR_RETURN(const Source source, source_of(module, is_bias));
    Pieces pieces(reader_, architecture_, config_, module, is_bias, source, report_.dtype);
    AUTOGLM_ASSIGN_OR_RETURN(Bytes rest, written.bytes(name));
    while (true) {
      AUTOGLM_RETURN_IF_ERROR(cancel_.check());
      AUTOGLM_ASSIGN_OR_RETURN(const Bytes piece, pieces.next());
      if (piece.empty()) break;
      if (rest.size() < piece.size() || !std::equal(piece.begin(), piece.end(), rest.begin())) {
        return internal_error("tensor " + format::display(name) + " is not what was written");
      }
      rest = rest.subspan(piece.size());
      written.release(name);
    }
    ++report_.checked;
    return ok_status();
  }

  const GgufReader& reader_;
  format::CheckpointWriter& writer_;
  CancelToken& cancel_;
  Architecture architecture_;
  ModelConfig config_;
  format::TensorLayout layout_;
  std::set<std::string> used_;
  GgufImportReport report_;
};

}  // namespace

DType usual_dtype(const GgufReader& reader) {
  std::set<GgmlType> types;
  for (const GgufTensor& tensor : reader.tensors()) {
    if (tensor.shape.size() > 1) types.insert(tensor.type);
  }
  if (types == std::set{GgmlType::kF32}) return DType::kF32;
  types.erase(GgmlType::kF32);  // routers
  return types == std::set{GgmlType::kBF16} ? DType::kBF16 : DType::kF16;
}

Result<GgufImportReport> import_gguf(const GgufReader& reader, std::optional<DType> dtype,
                                     format::CheckpointWriter& writer, CancelToken& cancel) {
  return GgufImport(reader, dtype.value_or(usual_dtype(reader)), writer, cancel).run();
}

}  // namespace autoglm::exports
