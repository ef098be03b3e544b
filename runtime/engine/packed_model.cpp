#include "runtime/engine/packed_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "core/base/progress.h"
#include "core/base/sha256.h"
#include "core/format/checkpoint_writer.h"
#include "core/format/config_fields.h"
#include "core/format/display.h"
#include "core/format/json.h"
#include "core/format/small_files.h"
#include "runtime/engine/memory_plan.h"
#include "runtime/engine/weight_reader.h"

namespace autoglm::engine {
namespace {

using format::ModuleSpec;
using Json = nlohmann::ordered_json;
using Span = std::span<const std::byte>;

constexpr std::string_view kMethod = "autoglm-packed";
constexpr int64_t kVersion = 1;
constexpr std::string_view kLayout = "rows16-columns32";  // weight_view.h; another one gets another name
constexpr std::string_view kDescription = "packed.json", kChecksum = "packed.sha256";
constexpr size_t kPieceBytes = 8 << 20;
constexpr int64_t kMaxSize = int64_t{1} << 40;

int64_t round_up(int64_t bytes) {
  return (bytes + kernels::kVectorBytes - 1) / kernels::kVectorBytes * kernels::kVectorBytes;
}

std::string_view text_of(Span bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }
Span bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

std::string tensor_of(const std::string& module) { return module + ".packed"; }

/// Words of packed.json.
constexpr std::pair<kernels::WeightType, std::string_view> kWeightTypes[] = {
    {kernels::WeightType::kF32, "F32"},
    {kernels::WeightType::kF16, "F16"},
    {kernels::WeightType::kBF16, "BF16"},
    {kernels::WeightType::kQuantized, "quantized"}};
constexpr std::pair<kernels::ScaleType, std::string_view> kScaleTypes[] = {
    {kernels::ScaleType::kF32, "F32"}, {kernels::ScaleType::kF16, "F16"}, {kernels::ScaleType::kBF16, "BF16"}};
constexpr std::pair<format::Strategy, std::string_view> kInputStrategies[] = {{format::Strategy::kTensor, "tensor"},
                                                                              {format::Strategy::kToken, "token"}};

template <typename Table, typename Value>
std::string_view word_of(const Table& table, Value value) {
  for (const auto& [each, word] : table) {
    if (each == value) return word;
  }
  return "";
}

Json to_json(const std::string& name, const PackedModel::Entry& entry) {
  const kernels::PackedShape& shape = entry.shape;
  Json json = {{"name", name}, {"type", word_of(kWeightTypes, shape.type)}, {"rows", shape.rows}, {"cols", shape.cols}};
  if (shape.type == kernels::WeightType::kQuantized) {
    json["bits"] = shape.bits;
    json["group_cols"] = shape.group_cols;
    json["symmetric"] = shape.symmetric;
    json["scales"] = word_of(kScaleTypes, shape.scale_type);
  }
  if (entry.input) {
    const format::InputQuant& input = *entry.input;
    json["input"] = {{"bits", input.args.num_bits},
                     {"strategy", word_of(kInputStrategies, input.args.strategy)},
                     {"symmetric", input.args.symmetric},
                     {"dynamic", input.args.dynamic}};
    if (!input.args.dynamic) {
      json["input"]["scale"] = input.scale;
      json["input"]["zero_point"] = static_cast<int64_t>(input.zero_point);
    }
  }
  json["sha256"] = entry.sha256;
  return json;
}

/// Typed members of an object of packed.json; kBadInput when one is missing or something else.
Status require(const Json& object, std::string_view key) {
  if (!object.is_object()) return bad_input(format::show(object) + " is no object");
  return format::has(object, key) ? ok_status() : bad_input(fmt::format("{} is missing", key));
}
Result<int64_t> integer(const Json& object, std::string_view key, int64_t least, int64_t most) {
  AUTOGLM_RETURN_IF_ERROR(require(object, key));
  return format::read_integer(object, key, least, most);
}
Result<float> number(const Json& object, std::string_view key) {
  AUTOGLM_RETURN_IF_ERROR(require(object, key));
  AUTOGLM_ASSIGN_OR_RETURN(const double value, format::read_number(object, key, -FLT_MAX, FLT_MAX));
  return static_cast<float>(value);
}
Result<bool> boolean(const Json& object, std::string_view key) {
  AUTOGLM_RETURN_IF_ERROR(require(object, key));
  return format::read_bool(object, key);
}
Result<std::string> text(const Json& object, std::string_view key) {
  AUTOGLM_RETURN_IF_ERROR(require(object, key));
  const Json& value = object.at(std::string(key));
  if (!value.is_string()) return bad_input(fmt::format("{} is {}, must be text", key, format::show(value)));
  return value.get<std::string>();
}
template <typename Value, size_t n>
Result<Value> word(const Json& object, std::string_view key, const std::pair<Value, std::string_view> (&table)[n]) {
  AUTOGLM_ASSIGN_OR_RETURN(const std::string found, text(object, key));
  for (const auto& [value, known] : table) {
    if (known == found) return value;
  }
  return bad_input(fmt::format("{} is {}", key, format::display(found)));
}

Result<format::InputQuant> parse_input(const Json& json) {
  format::InputQuant input;
  AUTOGLM_ASSIGN_OR_RETURN(const int64_t bits, integer(json, "bits", 1, 8));
  input.args.num_bits = static_cast<int>(bits);
  AUTOGLM_ASSIGN_OR_RETURN(input.args.strategy, word(json, "strategy", kInputStrategies));
  AUTOGLM_ASSIGN_OR_RETURN(input.args.symmetric, boolean(json, "symmetric"));
  AUTOGLM_ASSIGN_OR_RETURN(input.args.dynamic, boolean(json, "dynamic"));
  if (input.args.dynamic != (input.args.strategy == format::Strategy::kToken)) {
    return bad_input("is neither dynamic for each token nor static for the tensor");
  }
  if (input.args.dynamic) return input;
  AUTOGLM_ASSIGN_OR_RETURN(input.scale, number(json, "scale"));
  AUTOGLM_ASSIGN_OR_RETURN(const int64_t zero, integer(json, "zero_point", input.args.q_min(), input.args.q_max()));
  input.zero_point = static_cast<float>(zero);
  if (!(input.scale > 0)) return bad_input(fmt::format("scale is {}, must be above 0", input.scale));
  return input;
}

Result<PackedModel::Entry> parse_entry(const Json& json) {
  PackedModel::Entry entry;
  kernels::PackedShape& shape = entry.shape;
  AUTOGLM_ASSIGN_OR_RETURN(shape.type, word(json, "type", kWeightTypes));
  AUTOGLM_ASSIGN_OR_RETURN(shape.rows, integer(json, "rows", 1, kMaxSize));
  AUTOGLM_ASSIGN_OR_RETURN(shape.cols, integer(json, "cols", 1, kMaxSize));
  if (shape.type == kernels::WeightType::kQuantized) {
    AUTOGLM_ASSIGN_OR_RETURN(const int64_t bits, integer(json, "bits", 1, 8));
    shape.bits = static_cast<int>(bits);
    AUTOGLM_ASSIGN_OR_RETURN(shape.group_cols, integer(json, "group_cols", 1, kMaxSize));
    AUTOGLM_ASSIGN_OR_RETURN(shape.symmetric, boolean(json, "symmetric"));
    AUTOGLM_ASSIGN_OR_RETURN(shape.scale_type, word(json, "scales", kScaleTypes));
  }
  if (format::has(json, "input")) {
    auto input = parse_input(json.at("input"));
    if (!input.ok()) return input.status().with_context("input");
    entry.input = std::move(*input);
  }
  AUTOGLM_ASSIGN_OR_RETURN(entry.sha256, text(json, "sha256"));
  return entry;
}

/// Writes the tensors of a packed model, and takes their checksums down.
class Packer {
 public:
  Packer(const WeightReader& weights, format::CheckpointWriter& writer, kernels::ThreadPool& pool,
         const CancelToken* cancel)
      : weights_(weights),
        usual_(format::TensorLayout::describe(weights.config())),
        writer_(writer),
        pool_(pool),
        cancel_(cancel) {}

  Status add_all() {
    const format::ModelConfig& config = weights_.config();
    Progress progress("packing", config.num_hidden_layers);
    AUTOGLM_RETURN_IF_ERROR(add_matrices({&weights_.embedding()}));
    for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
      for (const auto& modules : matrices_of_block(weights_.layout(), layer)) {
        AUTOGLM_RETURN_IF_ERROR(add_matrices(modules));
      }
      progress.update(layer + 1);
    }
    if (&weights_.head() != &weights_.embedding()) AUTOGLM_RETURN_IF_ERROR(add_matrices({&weights_.head()}));

    for (const ModuleSpec& module : weights_.layout().modules()) {
      if (module.shape.size() == 2) continue;
      AUTOGLM_ASSIGN_OR_RETURN(const std::vector<float> values, weights_.vector(module));
      AUTOGLM_RETURN_IF_ERROR(add_vector(usual(module).weight_name(), values));
    }
    for (const auto& [name, values] : biases_) AUTOGLM_RETURN_IF_ERROR(add_vector(name, values));
    return add_description();
  }

 private:
  const ModuleSpec& usual(const ModuleSpec& module) const {
    return *usual_.find(module.role, module.layer, module.expert);
  }

  Status add_matrices(const std::vector<const ModuleSpec*>& modules) {
    AUTOGLM_ASSIGN_OR_RETURN(std::vector<Linear> linears, weights_.linears(modules, pool_, cancel_));
    size_t first = 0;
    for (Linear& linear : linears) {
      const ModuleSpec& module = usual(*modules[first]);
      const Span bytes = linear.weight.bytes();
      const int64_t size = round_up(static_cast<int64_t>(bytes.size()));
      const std::vector<std::byte> zeros(static_cast<size_t>(size) - bytes.size());
      Sha256 sha;
      const auto pieces = [&, done = size_t{0}]() mutable -> Result<Span> {
        weights_.stored().release_weight(*modules[first]);  // what was mapped for the piece before
        const Span piece = done < bytes.size()    ? bytes.subspan(done, std::min(bytes.size() - done, kPieceBytes))
                           : done == bytes.size() ? Span(zeros)
                                                  : Span();
        done += std::max<size_t>(1, piece.size());
        sha.add(text_of(piece));
        return piece;
      };
      AUTOGLM_RETURN_IF_ERROR(writer_.add_streamed(tensor_of(module.name), format::DType::kU8, {size}, pieces));
      matrices_.push_back(to_json(module.name, {linear.weight.shape(), linear.input, sha.finish()}));
      if (!linear.bias.empty()) biases_.emplace_back(module.bias_name(), std::move(linear.bias));
      for (int64_t rows = 0; rows < linear.weight.rows(); ++first) rows += modules[first]->shape[0];
    }
    return ok_status();
  }

  Status add_vector(const std::string& name, const std::vector<float>& values) {
    const Span bytes = std::as_bytes(std::span(values));
    vectors_.push_back({{"name", name}, {"sha256", sha256(text_of(bytes))}});
    return writer_.add(name, format::DType::kF32, {std::ssize(values)}, bytes);
  }

  Status add_description() {
    const std::string text = Json({{"version", kVersion},
                                   {"layout", kLayout},
                                   {"matrices", std::move(matrices_)},
                                   {"vectors", std::move(vectors_)}})
                                 .dump();
    const std::string sum = sha256(text);
    AUTOGLM_RETURN_IF_ERROR(writer_.add(kDescription, format::DType::kU8, {std::ssize(text)}, bytes_of(text)));
    return writer_.add(kChecksum, format::DType::kU8, {std::ssize(sum)}, bytes_of(sum));
  }

  const WeightReader& weights_;
  const format::TensorLayout usual_;
  format::CheckpointWriter& writer_;
  kernels::ThreadPool& pool_;
  const CancelToken* cancel_;
  Json matrices_ = Json::array(), vectors_ = Json::array();
  std::vector<std::pair<std::string, std::vector<float>>> biases_;  // written after all matrices
};

Result<Packed> pack_folder(const std::filesystem::path& folder, const std::filesystem::path& out,
                           const PackOptions& options) {
  AUTOGLM_ASSIGN_OR_RETURN(const format::ModelConfig config, format::ModelConfig::load(folder));
  if (is_packed(config)) return invalid_argument(format::display_path(folder) + ": is packed already");
  AUTOGLM_ASSIGN_OR_RETURN(const int threads, thread_count(options.threads));
  AUTOGLM_ASSIGN_OR_RETURN(const WeightReader reader, WeightReader::open(folder));
  std::vector<std::filesystem::path> read = reader.stored().checkpoint.files();
  read.push_back(folder / "config.json");
  for (const std::filesystem::path& file : read) {
    if (!format::lies_in(file, out)) continue;
    return invalid_argument(fmt::format("{}: the output would replace {}, which is packed; name another",
                                        format::display_path(out), format::display_path(file)));
  }
  AUTOGLM_ASSIGN_OR_RETURN(const Weights::Bytes bytes, reader.bytes());
  AUTOGLM_ASSIGN_OR_RETURN(auto writer,
                           format::CheckpointWriter::create(out, {.max_shard_bytes = INT64_MAX,
                                                                  .overwrite = options.overwrite,
                                                                  .expected_bytes = bytes.packed + bytes.mapped,
                                                                  .cancel = options.cancel}));
  kernels::ThreadPool pool(threads);
  AUTOGLM_RETURN_IF_ERROR(Packer(reader, writer, pool, options.cancel).add_all());
  AUTOGLM_RETURN_IF_ERROR(writer.write_file("config.json", config.to_json({{"quant_method", kMethod}})));
  AUTOGLM_RETURN_IF_ERROR(format::copy_small_files(folder, writer.folder()));
  AUTOGLM_RETURN_IF_ERROR(writer.finish());
  AUTOGLM_ASSIGN_OR_RETURN(const PackedModel written, PackedModel::open(writer.staging()));
  AUTOGLM_RETURN_IF_ERROR(written.verify(pool, options.cancel));
  AUTOGLM_RETURN_IF_ERROR(writer.commit());
  return Packed{reader.stored().file_bytes(), writer.tensor_bytes()};
}

}  // namespace

bool is_packed(const format::ModelConfig& config) {
  const auto found = config.raw.find("quantization_config");
  return found != config.raw.end() && found->is_object() && found->value("quant_method", Json()) == kMethod;
}

Result<Packed> pack(const std::filesystem::path& folder, const std::filesystem::path& out, const PackOptions& options) {
  try {
    return pack_folder(folder, out, options);
  } catch (const std::bad_alloc&) {
    return resource_exhausted("not enough memory to pack the model");
  } catch (const std::exception& error) {
    return internal_error(error.what());
  }
}

Status PackedModel::damaged(std::string_view what) const {
  return bad_input(fmt::format("{}: {}; pack the model again", format::display_path(checkpoint_->folder()), what));
}

Result<PackedModel> PackedModel::open(const std::filesystem::path& folder) {
  PackedModel model;
  AUTOGLM_ASSIGN_OR_RETURN(model.config_, format::ModelConfig::load(folder));
  AUTOGLM_ASSIGN_OR_RETURN(format::Checkpoint checkpoint, format::Checkpoint::open(folder));
  model.checkpoint_ = std::make_shared<const format::Checkpoint>(std::move(checkpoint));
  model.layout_ = format::TensorLayout::describe(model.config_);
  for (const std::string_view name : {kDescription, kChecksum}) {
    if (model.checkpoint_->find(name) == nullptr) return model.damaged(fmt::format("tensor {} is missing", name));
  }
  AUTOGLM_ASSIGN_OR_RETURN(const Span text, model.checkpoint_->bytes(kDescription));
  AUTOGLM_ASSIGN_OR_RETURN(const Span sum, model.checkpoint_->bytes(kChecksum));
  if (sha256(text_of(text)) != text_of(sum)) return model.damaged("packed.json does not agree with its checksum");
  if (const Status status = model.parse(text_of(text)); !status.ok()) {
    return model.damaged("packed.json: " + status.message());
  }
  AUTOGLM_RETURN_IF_ERROR(model.check());
  return model;
}

Status PackedModel::parse(std::string_view description) {
  AUTOGLM_ASSIGN_OR_RETURN(const Json json, format::parse_json(description));
  AUTOGLM_ASSIGN_OR_RETURN(const int64_t version, integer(json, "version", 1, INT64_MAX));
  AUTOGLM_ASSIGN_OR_RETURN(const std::string layout, text(json, "layout"));
  if (version != kVersion || layout != kLayout) {
    return bad_input(fmt::format("is of version {} with the layout {}, and this program runs version {} with {}",
                                 version, format::display(layout), kVersion, format::display(kLayout)));
  }
  const auto twice = [](const std::string& name) { return bad_input(format::display(name) + " occurs twice"); };
  for (const char* key : {"matrices", "vectors"}) {
    AUTOGLM_RETURN_IF_ERROR(require(json, key));
    if (!json.at(key).is_array()) return bad_input(fmt::format("{} is no array", key));
  }
  for (const Json& value : json.at("matrices")) {
    AUTOGLM_ASSIGN_OR_RETURN(const std::string name, text(value, "name"));
    auto entry = parse_entry(value);
    if (!entry.ok()) return entry.status().with_context(format::display(name));
    if (!matrices_.emplace(name, std::move(*entry)).second) return twice(name);
  }
  for (const Json& value : json.at("vectors")) {
    AUTOGLM_ASSIGN_OR_RETURN(const std::string name, text(value, "name"));
    AUTOGLM_ASSIGN_OR_RETURN(std::string sum, text(value, "sha256"));
    if (!vectors_.emplace(name, std::move(sum)).second) return twice(name);
  }
  return ok_status();
}

/// Everything that config.json asks for is there, and nothing else is.
Status PackedModel::check() {
  std::set<std::string> used;
  AUTOGLM_RETURN_IF_ERROR(check_matrices({&embedding()}, used));
  for (int64_t layer = 0; layer < config_.num_hidden_layers; ++layer) {
    for (const auto& modules : matrices_of_block(layout_, layer))
      AUTOGLM_RETURN_IF_ERROR(check_matrices(modules, used));
  }
  if (&head() != &embedding()) AUTOGLM_RETURN_IF_ERROR(check_matrices({&head()}, used));
  for (const ModuleSpec& module : layout_.modules()) {
    if (module.shape.size() != 2) AUTOGLM_RETURN_IF_ERROR(check_vector(module.weight_name(), module.shape[0], used));
  }
  for (const auto& [name, entry] : matrices_) {
    if (!used.contains(name)) return damaged(fmt::format("packed.json has {}, config.json not", format::display(name)));
  }
  for (const auto& [name, sum] : vectors_) {
    if (!used.contains(name)) return damaged(fmt::format("packed.json has {}, config.json not", format::display(name)));
  }
  const std::string& rows = embedding().name;
  AUTOGLM_ASSIGN_OR_RETURN(kernels::PackedWeight embedding_weight, weight(rows, matrices_.at(rows)));
  embedding_ = std::make_shared<const kernels::PackedWeight>(std::move(embedding_weight));
  return ok_status();
}

/// Every module has its rows in a matrix, and each matrix and bias lies where and as it should.
Status PackedModel::check_matrices(const std::vector<const ModuleSpec*>& modules, std::set<std::string>& used) const {
  for (size_t at = 0; at < modules.size();) {
    const ModuleSpec& first = *modules[at];
    const auto found = matrices_.find(first.name);
    if (found == matrices_.end()) return damaged(fmt::format("packed.json has no {}", format::display(first.name)));
    used.insert(first.name);
    const kernels::PackedShape& shape = found->second.shape;
    int64_t rows = 0;
    for (; rows < shape.rows && at < modules.size(); ++at) {
      rows += modules[at]->shape[0];
      if (modules[at]->shape[1] == shape.cols && modules[at]->has_bias == first.has_bias) continue;
      return damaged(
          fmt::format("{} cannot be a part of {}", format::display(modules[at]->name), format::display(first.name)));
    }
    if (rows != shape.rows) {
      return damaged(
          fmt::format("{} has {} rows where config.json has {}", format::display(first.name), shape.rows, rows));
    }
    if (const auto packed = weight(first.name, found->second); !packed.ok()) return packed.status();
    if (first.has_bias) AUTOGLM_RETURN_IF_ERROR(check_vector(first.bias_name(), rows, used));
  }
  return ok_status();
}

Status PackedModel::check_vector(const std::string& name, int64_t size, std::set<std::string>& used) const {
  used.insert(name);
  const format::TensorInfo* info = checkpoint_->find(name);
  if (info != nullptr && info->dtype == format::DType::kF32 && info->shape == format::Shape{size} &&
      vectors_.contains(name)) {
    return ok_status();
  }
  return damaged(fmt::format("there is no tensor {} of {} floats", format::display(name), size));
}

Result<kernels::PackedWeight> PackedModel::weight(const std::string& module, const Entry& entry) const {
  const std::string name = tensor_of(module);
  const auto size = entry.shape.bytes();
  if (!size.ok()) return damaged(fmt::format("{}: {}", format::display(name), size.status().message()));
  const format::TensorInfo* info = checkpoint_->find(name);
  if (info == nullptr || info->dtype != format::DType::kU8 || info->nbytes != round_up(*size)) {
    return damaged(fmt::format("there is no tensor {} of {} bytes", format::display(name), round_up(*size)));
  }
  AUTOGLM_ASSIGN_OR_RETURN(const Span bytes, checkpoint_->bytes(name));
  auto view = kernels::PackedWeight::view(entry.shape, bytes.first(static_cast<size_t>(*size)));
  if (!view.ok()) return damaged(fmt::format("{}: {}", format::display(name), view.status().message()));
  return view;
}

Status PackedModel::verify(kernels::ThreadPool& pool, const CancelToken* cancel) const {
  std::vector<std::pair<std::string, std::string>> sums(vectors_.begin(), vectors_.end());
  for (const auto& [module, entry] : matrices_) sums.emplace_back(tensor_of(module), entry.sha256);
  std::mutex mutex;
  Status failure;
  const auto check = [&](const std::string& name, const std::string& wanted) -> Status {
    AUTOGLM_ASSIGN_OR_RETURN(Span rest, checkpoint_->bytes(name));
    Sha256 sha;
    while (!rest.empty()) {
      if (cancel != nullptr) AUTOGLM_RETURN_IF_ERROR(cancel->check());
      const Span piece = rest.first(std::min(rest.size(), kPieceBytes));
      sha.add(text_of(piece));
      rest = rest.subspan(piece.size());
      checkpoint_->release(name);
    }
    return sha.finish() == wanted ? ok_status()
                                  : damaged(fmt::format("tensor {} differs from its checksum", format::display(name)));
  };
  pool.parallel_for(std::ssize(sums), [&](int64_t begin, int64_t end, int) {
    for (auto at = static_cast<size_t>(begin); at < static_cast<size_t>(end); ++at) {
      Status status;
      try {
        status = check(sums[at].first, sums[at].second);
      } catch (const std::bad_alloc&) {
        status = resource_exhausted("not enough memory to verify a packed model");
      }
      if (status.ok()) continue;
      const std::lock_guard lock(mutex);
      if (failure.ok()) failure = status;
      return;
    }
  });
  return failure;
}

Result<std::vector<Weights::Matrix>> PackedModel::matrices() const {
  std::vector<Matrix> all;
  for (const auto& [module, entry] : matrices_) {
    AUTOGLM_ASSIGN_OR_RETURN(const int64_t bytes, entry.shape.bytes());
    all.push_back({entry.shape, {.mapped = bytes}});
  }
  return all;
}

Result<std::vector<Linear>> PackedModel::linears(const std::vector<const ModuleSpec*>& modules, kernels::ThreadPool&,
                                                 const CancelToken*) const {
  std::vector<Linear> loaded;
  for (size_t at = 0; at < modules.size();) {
    const ModuleSpec& first = *modules[at];
    const Entry& entry = matrices_.at(first.name);
    Linear& linear = loaded.emplace_back();
    AUTOGLM_ASSIGN_OR_RETURN(linear.weight, weight(first.name, entry));
    linear.input = entry.input;
    if (first.has_bias) {
      AUTOGLM_ASSIGN_OR_RETURN(linear.bias, floats(first.bias_name()));
    }
    for (int64_t rows = 0; rows < entry.shape.rows; ++at) rows += modules[at]->shape[0];
  }
  return loaded;
}

Result<std::vector<float>> PackedModel::vector(const ModuleSpec& module) const { return floats(module.weight_name()); }

Result<std::vector<float>> PackedModel::floats(const std::string& name) const {
  auto values = finite_floats(*checkpoint_, name);
  if (values.ok()) return values;
  return bad_input(values.status().message() + "; pack the model again");
}

Status PackedModel::embedding_row(int64_t id, std::span<float> out) const {
  embedding_->row(id, out);
  return ok_status();
}

}  // namespace autoglm::engine
