/// Test driver: runs our decoder in float32 on sequences and writes its logits.
///
/// Each line of standard input is FOLDER, OUT and token ids, with tabs between the three. OUT receives [tokens, vocab]
/// little-endian float32, nothing else; the answer is a line, "ok" or what went wrong.
#include <ATen/ATen.h>

#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "compress/model/decoder.h"

namespace {

using autoglm::Status;

Status run(const std::string& folder, const std::string& out_file, std::istream& in) {
  const c10::InferenceMode no_gradients;
  AUTOGLM_ASSIGN_OR_RETURN(auto decoder, autoglm::model::Decoder::open(folder));
  std::vector<int64_t> ids;
  for (int64_t id = 0; in >> id;) ids.push_back(id);

  AUTOGLM_ASSIGN_OR_RETURN(at::Tensor hidden, decoder.embed(at::tensor(ids).unsqueeze(0)));
  const auto rotary = decoder.rotary(static_cast<int64_t>(ids.size()));
  for (int64_t layer = 0; layer < decoder.config().num_hidden_layers; ++layer) {
    AUTOGLM_ASSIGN_OR_RETURN(const auto block, decoder.load_block(layer));
    hidden = autoglm::model::forward(decoder.config(), block, rotary, hidden);
  }
  AUTOGLM_ASSIGN_OR_RETURN(at::Tensor logits, decoder.logits(hidden.squeeze(0)));
  logits = logits.contiguous();
  std::ofstream out(out_file, std::ios::binary);
  out.write(static_cast<const char*>(logits.data_ptr()), static_cast<std::streamsize>(logits.nbytes()));
  return out ? autoglm::ok_status() : autoglm::resource_exhausted("cannot write the logits");
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
