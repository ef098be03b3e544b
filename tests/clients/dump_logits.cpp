/// Test driver: runs our decoder in float32, and the runtime, on sequences and writes their logits.
///
/// Each line of standard input is FOLDER, OUT and token ids, with tabs between the three. OUT and OUT.runtime receive
/// [tokens, vocab] little-endian float32 each, nothing else; the answer is a line, "ok" or what went wrong.
#include <ATen/ATen.h>

#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "compress/model/decoder.h"
#include "runtime/engine/engine.h"

namespace {

using autoglm::Status;

Status write(const std::string& file, const void* bytes, size_t count) {
  std::ofstream out(file, std::ios::binary);
  out.write(static_cast<const char*>(bytes), static_cast<std::streamsize>(count));
  return out ? autoglm::ok_status() : autoglm::resource_exhausted("cannot write " + file);
}

Status run_decoder(const std::string& folder, const std::vector<int64_t>& ids, const std::string& out_file) {
  const c10::InferenceMode no_gradients;
  AUTOGLM_ASSIGN_OR_RETURN(auto decoder, autoglm::model::Decoder::open(folder));
  AUTOGLM_ASSIGN_OR_RETURN(at::Tensor hidden, decoder.embed(at::tensor(ids).unsqueeze(0)));
  const auto rotary = decoder.rotary(static_cast<int64_t>(ids.size()));
  for (int64_t layer = 0; layer < decoder.config().num_hidden_layers; ++layer) {
    AUTOGLM_ASSIGN_OR_RETURN(const auto block, decoder.load_block(layer));
    hidden = autoglm::model::forward(decoder.config(), block, rotary, hidden);
  }
  AUTOGLM_ASSIGN_OR_RETURN(at::Tensor logits, decoder.logits(hidden.squeeze(0)));
  logits = logits.contiguous();
  return write(out_file, logits.data_ptr(), logits.nbytes());
}

Status run_runtime(const std::string& folder, const std::vector<int64_t>& ids, const std::string& out_file) {
  AUTOGLM_ASSIGN_OR_RETURN(
      const auto engine,
      autoglm::engine::Engine::create(folder, nullptr, {.kv = autoglm::kernels::KvType::kF32, .threads = 1}));
  const std::vector<int32_t> tokens(ids.begin(), ids.end());
  AUTOGLM_ASSIGN_OR_RETURN(const std::vector<float> hidden, engine->hidden_states(tokens));
  std::vector<float> logits(tokens.size() * static_cast<size_t>(engine->config().vocab_size));
  AUTOGLM_RETURN_IF_ERROR(engine->logits(hidden, logits));
  return write(out_file, logits.data(), logits.size() * sizeof(float));
}

Status run(const std::string& folder, const std::string& out_file, std::istream& in) {
  std::vector<int64_t> ids;
  for (int64_t id = 0; in >> id;) ids.push_back(id);
  AUTOGLM_RETURN_IF_ERROR(run_decoder(folder, ids, out_file));
  return run_runtime(folder, ids, out_file + ".runtime");
}

}  // namespace

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string folder, out_file;
    if (!std::getline(words, folder, '\t') || !std::getline(words, out_file, '\t')) return 2;
    const Status status = run(folder, out_file, words);
    std::cout << (status.ok() ? "ok" : status.message()) << std::endl;
  }
  return 0;
}
