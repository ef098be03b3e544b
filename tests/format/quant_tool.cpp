/// For test_compressed_tensors.py:
///   quant_tool convert FOLDER MODULES OUT   reads the modules of FOLDER that the JSON file MODULES names, {name: [out,
///   in,
///                                           class]}, and writes to OUT what was read (NAME.values, .zero_points,
///                                           .dequantized), the tensors as we store them (NAME.weight_packed, ...) and
///                                           the quantization_config as we write it
///   quant_tool match FILE                   FILE: {"config": {...}, "modules": [[name, class], ...]}; prints one line
///   a
///                                           module: the name of its group or "-"
#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/format/checkpoint_writer.h"
#include "core/format/json.h"
#include "core/format/quantized_weight.h"

using namespace autoglm;
using namespace autoglm::format;

namespace {

Status convert_module(const Checkpoint& checkpoint, const QuantConfig& config, const std::string& module,
                      const Shape& shape, std::string_view type, CheckpointWriter& writer) {
  const QuantScheme* scheme = config.scheme_for(module, type);
  if (scheme == nullptr) return bad_input(module + ": has no scheme");
  const std::string& format = config.format_of(*scheme);
  AUTOGLM_ASSIGN_OR_RETURN(const QuantizedWeight weight, decode(checkpoint, module, *scheme, format, shape));
  std::vector<float> values(weight.values.size());
  dequantize(weight, values);
  AUTOGLM_RETURN_IF_ERROR(writer.add(module + ".dequantized", DType::kF32, shape, std::as_bytes(std::span(values))));
  AUTOGLM_RETURN_IF_ERROR(writer.add(module + ".values", DType::kI8, shape, std::as_bytes(std::span(weight.values))));
  AUTOGLM_RETURN_IF_ERROR(writer.add(module + ".zero_points", DType::kI8,
                                     {static_cast<int64_t>(weight.zero_points.size())},
                                     std::as_bytes(std::span(weight.zero_points))));
  for (const StoredTensor& tensor : encode(weight, module, format)) {
    AUTOGLM_RETURN_IF_ERROR(writer.add(tensor.name, tensor.dtype, tensor.shape, tensor.bytes));
  }
  return ok_status();
}

Result<nlohmann::ordered_json> read_json(const std::filesystem::path& path) {
  AUTOGLM_ASSIGN_OR_RETURN(const std::string text, read_text_file(path));
  return parse_json(text);
}

Status convert(const std::filesystem::path& folder, const std::filesystem::path& modules,
               const std::filesystem::path& out) {
  AUTOGLM_ASSIGN_OR_RETURN(const nlohmann::ordered_json json, read_json(folder / "config.json"));
  AUTOGLM_ASSIGN_OR_RETURN(const nlohmann::ordered_json shapes, read_json(modules));
  AUTOGLM_ASSIGN_OR_RETURN(const QuantConfig config, QuantConfig::parse(json.at("quantization_config")));
  AUTOGLM_ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::open(folder));
  AUTOGLM_ASSIGN_OR_RETURN(CheckpointWriter writer, CheckpointWriter::create(out));
  for (const auto& [module, what] : shapes.items()) {
    AUTOGLM_RETURN_IF_ERROR(
        convert_module(checkpoint, config, module, {what.at(0), what.at(1)}, what.at(2).get<std::string>(), writer));
  }
  AUTOGLM_RETURN_IF_ERROR(
      writer.write_file("config.json", nlohmann::json{{"quantization_config", config.to_json()}}.dump(2)));
  return writer.commit();
}

Status match(const std::filesystem::path& file) {
  AUTOGLM_ASSIGN_OR_RETURN(const nlohmann::ordered_json json, read_json(file));
  AUTOGLM_ASSIGN_OR_RETURN(const QuantConfig config, QuantConfig::parse(json.at("config")));
  for (const auto& module : json.at("modules")) {
    const QuantScheme* scheme = config.scheme_for(module.at(0).get<std::string>(), module.at(1).get<std::string>());
    std::string name = "-";
    for (const auto& [group, candidate] : config.config_groups) {
      if (&candidate == scheme) name = group;
    }
    fmt::print("{}\n", name);
  }
  return ok_status();
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 2 ? argv[1] : "";
  const Status status = mode == "convert" && argc == 5 ? convert(argv[2], argv[3], argv[4])
                        : mode == "match"              ? match(argv[2])
                                          : invalid_argument("quant_tool convert FOLDER MODULES OUT | match FILE");
  if (!status.ok()) fmt::print(stderr, "{}\n", status.message());
  return static_cast<int>(status.code());
}
