#pragma once
/// Registry: the methods a recipe can name. Filled by explicit calls, never by static initialisers.
#include <fmt/format.h>

#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "compress/pass/pass.h"
#include "compress/pass/smoother.h"
#include "core/base/status.h"

namespace autoglm::pass {

/// Makes a pass from its options (a JSON object, possibly empty). kInvalidArgument names the option at fault.
using Factory = std::function<Result<std::unique_ptr<Pass>>(const nlohmann::json& options)>;
using SmootherFactory = std::function<Result<std::unique_ptr<Smoother>>(const nlohmann::json& options)>;

/// What a recipe's method word asks for; "" for nothing.
struct MethodWord {
  std::string smoother, pass;
};

class Registry {
 public:
  void add(std::string name, Factory factory) { factories_[std::move(name)] = std::move(factory); }

  void add_smoother(std::string name, SmootherFactory factory) { smoothers_[std::move(name)] = std::move(factory); }

  std::vector<std::string> names() const;      ///< of the passes
  std::vector<std::string> all_names() const;  ///< of the passes and the smoothers
  bool knows(std::string_view name) const { return factories_.contains(std::string(name)); }

  /// A word of names joined by '+': at most one smoother, and at most one pass that rounds after it. A smoother alone
  /// is followed by the pass of its own name, where there is one, else by "rtn". kInvalidArgument: an unknown name
  /// (with the nearest and all known ones), too many.
  Result<MethodWord> parse(std::string_view word) const;

  /// Whether the passes and smoothers of this name take these options. kInvalidArgument as `make`.
  Status check(std::string_view name, const nlohmann::json& options) const;

  /// kInvalidArgument: unknown name (with the nearest and all known ones), or options it does not take.
  Result<std::unique_ptr<Pass>> make(std::string_view name, const nlohmann::json& options) const;
  Result<std::unique_ptr<Smoother>> make_smoother(std::string_view name, const nlohmann::json& options) const;

 private:
  std::map<std::string, Factory> factories_;
  std::map<std::string, SmootherFactory> smoothers_;
};

/// kInvalidArgument when `options` is no object or has a member that is not in `known`.
Status check_options(std::string_view method, const nlohmann::json& options, const std::vector<std::string>& known);

/// Reads a bool or a number, if it is there; kInvalidArgument names it when it is of another type.
template <typename T>
Status read_option(std::string_view method, const nlohmann::json& options, const char* name, T& value) {
  if (!options.is_object() || !options.contains(name)) return ok_status();
  const nlohmann::json& given = options[name];
  if (std::is_same_v<T, bool> ? !given.is_boolean() : !given.is_number()) {
    return invalid_argument(fmt::format("method '{}': option '{}' must be {}", method, name,
                                        std::is_same_v<T, bool> ? "true or false" : "a number"));
  }
  value = given.get<T>();
  return ok_status();
}

}  // namespace autoglm::pass
