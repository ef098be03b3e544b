// Recipe files: YAML to JSON, JSON to settings; what was accepted is written and read again as the same recipe.
#include <cstddef>
#include <cstdint>
#include <string>

#include "api/settings.h"
#include "tests/fuzz/require.h"

using namespace autoglm;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto json = api::yaml_to_json({reinterpret_cast<const char*>(data), size}, "recipe.yaml");
  const auto settings = json.ok() ? api::read_recipe(*json, "recipe.yaml") : json.status();
  if (!settings.ok()) {
    require(settings.status().message().starts_with("recipe.yaml"));
    require(settings.status().message().find('\n') == std::string::npos);
    return 0;
  }
  const auto written = settings->recipe.to_json();
  const auto again = pass::Recipe::from_json(written);
  require(again.ok() && again->to_json() == written);
  return 0;
}
