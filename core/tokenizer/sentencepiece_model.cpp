#include "core/tokenizer/sentencepiece_model.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <unordered_set>

#include "core/format/display.h"
#include "core/tokenizer/function_ref.h"
#include "core/tokenizer/json_members.h"
#include "core/tokenizer/utf8.h"

namespace autoglm::tokenizer {
namespace {

enum class Wire { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

// One field of a protobuf message: a number, or bytes.
struct Field {
  uint32_t number = 0;
  Wire wire = Wire::kVarint;
  uint64_t value = 0;
  std::string_view bytes;
};

// Reads the fields of a message one after the other.
class FieldReader {
 public:
  explicit FieldReader(std::string_view message) : rest_(message) {}
  bool done() const { return rest_.empty(); }

  Result<Field> next() {
    AUTOGLM_ASSIGN_OR_RETURN(const uint64_t tag, varint());
    Field field;
    field.number = static_cast<uint32_t>(tag >> 3);
    field.wire = static_cast<Wire>(tag & 7);
    if (field.number == 0 || tag >> 3 > 0x1FFFFFFF) return broken("a field has no number");
    switch (field.wire) {
      case Wire::kVarint: {
        AUTOGLM_ASSIGN_OR_RETURN(field.value, varint());
        return field;
      }
      case Wire::kBytes: {
        AUTOGLM_ASSIGN_OR_RETURN(const uint64_t size, varint());
        if (size > rest_.size()) return broken("a field is longer than the file");
        field.bytes = take(size);
        return field;
      }
      case Wire::kFixed32:
      case Wire::kFixed64: {
        const size_t size = field.wire == Wire::kFixed32 ? 4 : 8;
        if (rest_.size() < size) return broken("a number is cut off");
        std::memcpy(&field.value, take(size).data(), size);  // little-endian, as the format
        return field;
      }
    }
    return broken("a field has an unknown wire type");
  }

 private:
  static Status broken(std::string_view what) { return bad_input(fmt::format("not a sentencepiece model: {}", what)); }
  std::string_view take(size_t size) {
    const std::string_view taken = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return taken;
  }
  Result<uint64_t> varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (rest_.empty()) return broken("a number is cut off");
      const auto byte = static_cast<uint8_t>(take(1)[0]);
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    return broken("a number is longer than 64 bits");
  }

  std::string_view rest_;
};

Status for_each_field(std::string_view message, FunctionRef<Status(const Field&)> visit) {
  for (FieldReader reader(message); !reader.done();) {
    AUTOGLM_ASSIGN_OR_RETURN(const Field field, reader.next());
    AUTOGLM_RETURN_IF_ERROR(visit(field));
  }
  return ok_status();
}

Status parse_piece(std::string_view message, SentencePieceModel::Piece& piece) {
  AUTOGLM_RETURN_IF_ERROR(for_each_field(message, [&](const Field& field) -> Status {
    if (field.number == 1 && field.wire == Wire::kBytes) piece.text = field.bytes;
    if (field.number == 2 && field.wire == Wire::kFixed32) {
      std::memcpy(&piece.score, &field.value, sizeof piece.score);
      if (!std::isfinite(piece.score)) return bad_input("its score is not finite");
    }
    if (field.number == 3 && field.wire == Wire::kVarint) {
      if (field.value < 1 || field.value > 6) return bad_input(fmt::format("its type {} is unknown", field.value));
      piece.type = static_cast<SentencePieceModel::Type>(field.value);
    }
    return ok_status();
  }));
  if (piece.text.empty()) return bad_input("it is empty");
  if (!is_valid_utf8(piece.text) || piece.text.find('\0') != std::string::npos) return bad_input("it is not text");
  return ok_status();
}

Status parse_trainer_spec(std::string_view message, SentencePieceModel& model) {
  return for_each_field(message, [&](const Field& field) -> Status {
    if (field.number == 3 && field.wire == Wire::kVarint && (field.value < 1 || field.value > 4)) {
      return bad_input(fmt::format("trainer_spec: the model type {} is unknown", field.value));
    }
    if (field.number == 3 && field.wire == Wire::kVarint) model.is_bpe = field.value == 2;
    if (field.number == 41 && field.wire == Wire::kVarint) model.bos_id = static_cast<int32_t>(field.value);
    if (field.number == 42 && field.wire == Wire::kVarint) model.eos_id = static_cast<int32_t>(field.value);
    if (field.number == 44 && field.wire == Wire::kBytes) {
      model.unk_surface = field.bytes;
      if (!is_valid_utf8(model.unk_surface)) return bad_input("trainer_spec: unk_surface is not UTF-8");
    }
    return ok_status();
  });
}

// The normalizer's table: the size of a double array in bytes (uint32), the array (uint32 units, as Darts-clone lays
// them out), then texts that each end in NUL. A unit with bit 31 set is a leaf and holds the offset of a text; from any
// other unit at i, the next is at i ^ offset ^ byte, so a block of 256 must exist at i ^ offset; with bit 8 set, the
// unit at i ^ offset is a leaf.
Status check_charsmap(std::string_view blob) {
  if (blob.empty()) return ok_status();
  uint32_t array_bytes = 0;
  if (blob.size() <= sizeof array_bytes) return bad_input("the table is cut off");
  std::memcpy(&array_bytes, blob.data(), sizeof array_bytes);
  blob.remove_prefix(sizeof array_bytes);
  if (array_bytes >= blob.size() || array_bytes % 1024 != 0 || array_bytes == 0) {
    return bad_input("the double array has a wrong size");
  }
  const std::string_view texts = blob.substr(array_bytes);
  if (texts.back() != '\0') return bad_input("the texts have no end");
  if (!is_valid_utf8(texts)) return bad_input("the texts are not UTF-8");
  const uint32_t units = array_bytes / 4;
  const auto unit_at = [&](uint32_t i) {
    uint32_t unit = 0;
    std::memcpy(&unit, blob.data() + static_cast<size_t>(i) * 4, sizeof unit);
    return unit;
  };
  for (uint32_t i = 0; i < units; ++i) {
    const uint32_t unit = unit_at(i);
    if (unit >> 31) {
      const uint32_t offset = unit & 0x7FFFFFFF;
      const bool starts_text = offset < texts.size() && (texts[offset] & 0xC0) != 0x80;
      if (!starts_text) return bad_input("the double array points outside of the texts");
    } else {
      const uint32_t next = i ^ (unit >> 10) << ((unit & (1U << 9)) >> 6);
      if ((next | 0xFF) >= units) return bad_input("the double array points outside of itself");
      const bool has_leaf = unit >> 8 & 1;
      if (has_leaf && unit_at(next) >> 31 == 0) return bad_input("the double array has a leaf that is none");
    }
  }
  return ok_status();
}

Status parse_normalizer_spec(std::string_view message, SentencePieceModel& model) {
  return for_each_field(message, [&](const Field& field) -> Status {
    if (field.number == 2 && field.wire == Wire::kBytes) {
      model.has_charsmap = !field.bytes.empty();
      return check_charsmap(field.bytes).with_context("normalizer_spec: precompiled_charsmap");
    }
    if (field.number == 3 && field.wire == Wire::kVarint) model.add_dummy_prefix = field.value != 0;
    if (field.number == 4 && field.wire == Wire::kVarint) model.remove_extra_whitespaces = field.value != 0;
    return ok_status();
  });
}

Status check_denormalizer_spec(std::string_view message) {
  return for_each_field(message, [](const Field& field) -> Status {
    if (field.number == 2 && !field.bytes.empty()) return bad_input("denormalizer_spec: is not supported");
    return ok_status();
  });
}

Status check_pieces(const std::vector<SentencePieceModel::Piece>& pieces) {
  if (pieces.empty()) return bad_input("not a sentencepiece model: it has no pieces");
  if (static_cast<int64_t>(pieces.size()) > kMaxTokenId) return bad_input("too many pieces");
  std::unordered_set<std::string_view> seen;
  int unknown = 0;
  for (size_t id = 0; id < pieces.size(); ++id) {
    if (!seen.insert(pieces[id].text).second) {
      return bad_input(fmt::format("piece {}: {} occurs twice", id, format::display(pieces[id].text, 40)));
    }
    unknown += pieces[id].type == SentencePieceModel::Type::kUnknown;
  }
  if (unknown != 1) return bad_input(fmt::format("{} pieces are of type UNKNOWN; one must be", unknown));
  return ok_status();
}

}  // namespace

Result<SentencePieceModel> parse_sentencepiece_model(std::string_view bytes) {
  SentencePieceModel model;
  AUTOGLM_RETURN_IF_ERROR(for_each_field(bytes, [&](const Field& field) -> Status {
    if (field.wire != Wire::kBytes) return ok_status();
    switch (field.number) {
      case 1: {
        SentencePieceModel::Piece piece;
        Status status = parse_piece(field.bytes, piece);
        if (!status.ok()) return status.with_context(fmt::format("piece {}", model.pieces.size()));
        model.pieces.push_back(std::move(piece));
        return ok_status();
      }
      case 2: return parse_trainer_spec(field.bytes, model);
      case 3: return parse_normalizer_spec(field.bytes, model);
      case 4: return for_each_field(field.bytes, [](const Field&) { return ok_status(); });  // self-test data
      case 5: return check_denormalizer_spec(field.bytes);
      default: return ok_status();
    }
  }));
  AUTOGLM_RETURN_IF_ERROR(check_pieces(model.pieces));
  return model;
}

}  // namespace autoglm::tokenizer
