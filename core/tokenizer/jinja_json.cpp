#include "core/tokenizer/jinja_json.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "core/tokenizer/jinja_text.h"

namespace autoglm::tokenizer::jinja {
namespace {

class JsonWriter {
 public:
  JsonWriter(Budget& budget, const JsonLayout& layout) : budget_(budget), layout_(layout) {}

  void write(const Value& v, int depth) {
    budget_.charge(1);
    if (v.is_none()) {
      append("null");
    } else if (v.is_bool()) {
      append(v.as_bool() ? "true" : "false");
    } else if (v.is_int()) {
      append(std::to_string(v.as_int()));
    } else if (v.is_float()) {
      append(number(v.as_double()));
    } else if (v.is_string()) {
      string(v.as_string());
    } else if (const Dict* dict = v.dict()) {
      object(*dict, depth);
    } else if (v.sequence() != nullptr &&
               (v.sequence()->kind == SequenceKind::kList || v.sequence()->kind == SequenceKind::kTuple)) {
      array(v.sequence()->items, depth);
    } else {
      throw Error("Object of type " + std::string(v.type_name()) + " is not JSON serializable");
    }
  }

  std::string take() { return std::move(out_); }

 private:
  void append(std::string_view s) { budget_.append(out_, s); }

  static std::string number(double v) {
    if (std::isnan(v)) return "NaN";
    if (std::isinf(v)) return v > 0 ? "Infinity" : "-Infinity";
    return text::repr(v);
  }

  void string(const std::string& s) {
    std::string quoted = "\"";
    char buffer[16];
    for (size_t at = 0; at < s.size();) {
      const text::CodePoint c = text::decode(s, at);
      switch (c.value) {
        case '"': quoted += "\\\""; break;
        case '\\': quoted += "\\\\"; break;
        case '\n': quoted += "\\n"; break;
        case '\r': quoted += "\\r"; break;
        case '\t': quoted += "\\t"; break;
        case '\f': quoted += "\\f"; break;
        case '\b': quoted += "\\b"; break;
        default:
          if (c.value >= 0 && (c.value < 0x20 || (layout_.ensure_ascii && c.value > 0x7E))) {
            if (c.value > 0xFFFF) {  // as two UTF-16 surrogates
              const auto rest = static_cast<unsigned>(c.value) - 0x10000;
              std::snprintf(buffer, sizeof(buffer), "\\u%04x\\u%04x", 0xD800 + (rest >> 10), 0xDC00 + (rest & 0x3FF));
            } else {
              std::snprintf(buffer, sizeof(buffer), "\\u%04x", static_cast<unsigned>(c.value));
            }
            quoted += buffer;
          } else {
            quoted.append(s, at, c.size);
          }
      }
      at += c.size;
    }
    append(quoted += '"');
  }

  /// The separator before an element, or the line end before the closing bracket.
  void separate(bool first, bool closing, int depth) {
    if (!first && !closing) append(layout_.item_separator);
    if (!layout_.indented) return;
    append("\n");
    for (int i = 0; i < depth + (closing ? 0 : 1); ++i) append(layout_.indent);
  }

  void array(const Values& items, int depth) {
    if (items.empty()) return append("[]");
    append("[");
    for (size_t i = 0; i < items.size(); ++i) {
      separate(i == 0, false, depth);
      write(items[i], depth + 1);
    }
    separate(false, true, depth);
    append("]");
  }

  void object(const Dict& dict, int depth) {
    if (dict.items.empty()) return append("{}");
    auto items = dict.items;
    if (layout_.sort_keys) {
      std::stable_sort(items.begin(), items.end(), [](const auto& a, const auto& b) { return less(a.first, b.first); });
    }
    append("{");
    for (size_t i = 0; i < items.size(); ++i) {
      separate(i == 0, false, depth);
      key(items[i].first);
      append(layout_.key_separator);
      write(items[i].second, depth + 1);
    }
    separate(false, true, depth);
    append("}");
  }

  void key(const Value& v) {
    if (v.is_string()) return string(v.as_string());
    if (v.is_none()) return append("\"null\"");
    if (v.is_bool()) return append(v.as_bool() ? "\"true\"" : "\"false\"");
    if (v.is_int()) return append("\"" + std::to_string(v.as_int()) + "\"");
    if (v.is_float()) return append("\"" + number(v.as_double()) + "\"");
    throw Error("keys must be str, int, float, bool or None, not " + std::string(v.type_name()));
  }

  Budget& budget_;
  const JsonLayout& layout_;
  std::string out_;
};

}  // namespace

std::string to_json(Budget& budget, const Value& v, const JsonLayout& layout) {
  JsonWriter writer(budget, layout);
  writer.write(v, 0);
  return writer.take();
}

}  // namespace autoglm::tokenizer::jinja
