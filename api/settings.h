#pragma once
/// Settings: what one compression is to do, settled from the caller's options, then the recipe file, then the defaults.
#include <autoglm/compress.h>

#include <nlohmann/json.hpp>
#include <string>

#include "compress/pass/recipe.h"
#include "core/base/status.h"

namespace autoglm::api {

struct Settings {
  pass::Recipe recipe;
  bool scheme_given = false;  // by the recipe file or the caller
  bool embedding_given = false, head_given = false;
  bool automatic = false;  // formats are chosen by one of the budgets that follow
  double target_bits = 0;
  int64_t target_size = 0;
  double ratio = 0;
  std::string profile;
  std::string scores;
  bool swaps_given = false;  // not the usual of an effort
  int64_t swaps = 0;         // rounds of them
  std::string calibration;
  bool samples_given = false, length_given = false;  // the next two
  int64_t calibration_samples = 128;
  int64_t calibration_length = 512;
  std::string verify = "fast";
  std::string evaluation;
  double max_loss = -1;
  double max_kl = 0;
  int64_t max_ram = 0;
  int64_t max_shard = 5'000'000'000;
  int threads = 0;
  uint64_t seed = 0;
  std::string device = "cpu";
  std::string compute = "fp32";
};

/// Whether a size was named, rather than a contract alone.
bool has_budget(const Settings& settings);

/// kInvalidArgument names the option, or the file and the member, that is unknown or wrong.
Result<Settings> settle(const CompressOptions& options);

/// The settings of a parsed recipe file alone; `where` is put before messages; `effort`, where not empty, comes before
/// the file's. Also the fuzzers' entry.
Result<Settings> read_recipe(const nlohmann::json& file, const std::string& where, const std::string& effort = "");

/// YAML text as JSON: plain scalars become booleans, numbers or null as YAML 1.2's core schema reads them, quoted ones
/// stay strings. kInvalidArgument with the line: no YAML, a repeated key, anchors that grow beyond measure.
Result<nlohmann::json> yaml_to_json(const std::string& text, const std::string& where);

}  // namespace autoglm::api
