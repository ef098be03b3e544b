#include "core/format/json.h"

#include <fmt/format.h>

#include <string>
#include <unordered_set>
#include <vector>

#include "core/format/display.h"

namespace autoglm::format {
namespace {

constexpr size_t kMaxDepth = 100;

class Checker final : public nlohmann::json_sax<nlohmann::json> {
 public:
  const std::string& error() const { return error_; }

  bool start_object(std::size_t) override { return descend(); }
  bool start_array(std::size_t) override { return descend(); }
  bool end_object() override { return ascend(); }
  bool end_array() override { return ascend(); }
  bool key(string_t& name) override {
    if (members_.back().insert(name).second) return true;
    return fail("member " + display(name) + " occurs twice in one object");
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& e) override {
    return fail(fmt::format("not valid JSON at byte {}{}", position, e.id == 406 ? ": a number is out of range" : ""));
  }
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }

 private:
  bool fail(std::string message) {
    error_ = std::move(message);
    return false;
  }
  bool descend() {
    if (members_.size() == kMaxDepth) return fail(fmt::format("nested deeper than {} levels", kMaxDepth));
    members_.emplace_back();
    return true;
  }
  bool ascend() {
    members_.pop_back();
    return true;
  }

  std::vector<std::unordered_set<std::string>> members_;  // of the open objects; arrays have an unused one
  std::string error_;
};

}  // namespace

Status check_json(std::string_view text) {
  // The JSON library takes a zero byte as the end of its input, what follows would go unseen.
  if (text.find('\0') != std::string_view::npos) return bad_input("contains a zero byte");
  Checker checker;
  if (!nlohmann::json::sax_parse(text, &checker)) return bad_input(checker.error());
  return ok_status();
}

}  // namespace autoglm::format
