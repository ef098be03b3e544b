#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <charconv>
#include <cmath>
#include <sstream>

#include "api/settings.h"

namespace autoglm::api {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 32;
constexpr int kMaxNodes = 100'000;  // aliases can make a short text mean a huge tree

class Converter {
 public:
  explicit Converter(std::string where) : where_(std::move(where)) {}

  Result<json> convert(const YAML::Node& node, int depth = 0) {
    if (depth > kMaxDepth || ++nodes_ > kMaxNodes) return refuse(node, "is nested too deeply or too large");
    switch (node.Type()) {
      case YAML::NodeType::Undefined:
      case YAML::NodeType::Null: return json(nullptr);
      case YAML::NodeType::Scalar: return scalar(node);
      case YAML::NodeType::Sequence: {
        json out = json::array();
        for (const YAML::Node& child : node) {
          AUTOGLM_ASSIGN_OR_RETURN(json value, convert(child, depth + 1));
          out.push_back(std::move(value));
        }
        return out;
      }
      case YAML::NodeType::Map: break;
    }
    json out = json::object();
    for (const auto& entry : node) {
      const YAML::Node& key = entry.first;
      if (!key.IsScalar()) return refuse(key, "has a key that is no plain word");
      if (out.contains(key.Scalar())) return refuse(key, fmt::format("repeats the key '{}'", key.Scalar()));
      AUTOGLM_ASSIGN_OR_RETURN(out[key.Scalar()], convert(entry.second, depth + 1));
    }
    return out;
  }

 private:
  static json scalar(const YAML::Node& node) {
    const std::string& text = node.Scalar();
    if (node.Tag() == "!") return text;  // quoted
    if (text == "true" || text == "True" || text == "TRUE") return true;
    if (text == "false" || text == "False" || text == "FALSE") return false;
    if (text.empty() || text == "~" || text == "null" || text == "Null" || text == "NULL") return nullptr;
    const char* end = text.data() + text.size();
    int64_t integer = 0;
    if (const auto [rest, error] = std::from_chars(text.data(), end, integer); error == std::errc() && rest == end)
      return integer;
    double number = 0;
    if (const auto [rest, error] = std::from_chars(text.data(), end, number);
        error == std::errc() && rest == end && std::isfinite(number)) {
      return number;
    }
    return text;
  }

  Status refuse(const YAML::Node& node, const std::string& what) const {
    return invalid_argument(fmt::format("{}:{}: the recipe {}", where_, node.Mark().line + 1, what));
  }

  std::string where_;
  int nodes_ = 0;
};

// The line of a "---" after the first document's text, or 0. (YAML::LoadAll, which would tell, never ends on some
// input.)
int second_document(const std::string& text) {
  std::istringstream lines(text);
  bool begun = false;
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    const bool marker = line.starts_with("---") && line.find_first_not_of(" \t\r", 3) != 3;
    if (marker && begun) return number;
    const size_t first = line.find_first_not_of(" \t\r");
    begun = begun || marker || (first != std::string::npos && line[first] != '#' && line[0] != '%');
  }
  return 0;
}

}  // namespace

Result<json> yaml_to_json(const std::string& text, const std::string& where) {
  try {
    if (const int line = second_document(text); line > 0) {
      return invalid_argument(fmt::format("{}:{}: a second YAML document begins; a recipe is one", where, line));
    }
    return Converter(where).convert(YAML::Load(text));
  } catch (const YAML::Exception& error) {
    return invalid_argument(fmt::format("{}:{}: not readable as YAML: {}", where, error.mark.line + 1, error.msg));
  } catch (const std::exception& error) {
    return invalid_argument(fmt::format("{}: not readable as YAML: {}", where, error.what()));
  }
}

}  // namespace autoglm::api
