#pragma once
/// Decoders of tokenizer.json: from the texts of tokens to text. They work incrementally, so that decoding a whole
/// sequence and decoding it token by token are the same code and give the same text.
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/tokenizer/function_ref.h"
#include "core/tokenizer/json_members.h"

namespace autoglm::tokenizer {

/// What one step of decoding remembers between tokens. Not thread-safe.
class DecoderState {
 public:
  using Sink = FunctionRef<void(std::string)>;
  virtual ~DecoderState() = default;
  virtual void push(std::string token, Sink sink) = 0;
  virtual void finish(Sink) {}
};

/// The state of a whole chain, for one sequence.
class DecoderRun {
 public:
  explicit DecoderRun(std::vector<std::unique_ptr<DecoderState>> steps) : steps_(std::move(steps)) {}
  void push(std::string token, std::string& text) { run(0, std::move(token), text); }
  void finish(std::string& text);

 private:
  void run(size_t step, std::string token, std::string& text);
  std::vector<std::unique_ptr<DecoderState>> steps_;
};

/// A chain of decoding steps. Immutable; may be shared between threads.
class Decoder {
 public:
  /// Reads "decoder" (null joins tokens with spaces, as the reference does). kBadInput names what is unknown or broken.
  static Result<Decoder> from_json(const Json* spec);
  static Decoder byte_level();

  DecoderRun start() const;

  /// Makes the state of a step for a new sequence.
  using Factory = std::function<std::unique_ptr<DecoderState>()>;

 private:
  Status add(const Json& spec, int depth);
  void add_step(Factory step, bool takes_parts, bool fuses);

  std::vector<Factory> steps_;
  double growth_ = 1;   // how many times longer the steps can make text
  bool fused_ = false;  // the steps so far give one token, possibly in several parts
};

}  // namespace autoglm::tokenizer
