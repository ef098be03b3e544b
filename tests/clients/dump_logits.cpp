/// dump_logits FOLDER IDS OUT: runs our decoder in float32 on one sequence and writes its logits.
///
/// IDS is a text file of token ids; OUT receives [tokens, vocab] little-endian float32, nothing else.
#include <ATen/ATen.h>

#include <cstdio>
#include <fstream>
#include <vector>

#include "compress/model/decoder.h"

namespace {

using autoglm::Result;
using autoglm::Status;

Status run(const char* folder, const char* ids_file, const char* out_file) {
  const c10::InferenceMode no_gradients;
  AUTOGLM_ASSIGN_OR_RETURN(auto decoder, autoglm::model::Decoder::open(folder));
  std::vector<int64_t> ids;
  std::ifstream in(ids_file);
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

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const Status status = run(argv[1], argv[2], argv[3]);
  if (!status.ok()) std::fprintf(stderr, "dump_logits: %s\n", status.message().c_str());
  return static_cast<int>(status.code());
}
