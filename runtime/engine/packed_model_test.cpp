#include "runtime/engine/packed_model.h"

#include <gmock/gmock.h>

#include "core/base/sha256.h"
#include "runtime/engine/artifact_testing.h"

namespace autoglm::engine {
namespace {

using testing::HasSubstr;

std::filesystem::path packed_of(const std::filesystem::path& folder, const ScratchFolder& into) {
  std::filesystem::path out = into.path() / "packed";
  const Packed packed = must(pack(folder, out));
  EXPECT_GT(packed.bytes, 0);
  return out;
}

class PackedTest : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Kinds, PackedTest, testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

TEST_P(PackedTest, LogitsAreThoseOfTheArtifact) {
  const Artifact artifact(GetParam().family, GetParam().quantization);
  const ScratchFolder scratch;
  const auto packed = packed_of(artifact.quantized.path(), scratch);
  for (const kernels::Compute compute : {kernels::Compute::kFloat, kernels::Compute::kInt8}) {
    EXPECT_EQ(logits_of(packed, GetParam().family, compute),
              logits_of(artifact.quantized.path(), GetParam().family, compute));
  }
}

TEST(PackedModel, FloatModelsAndQuantizedInputsTooAreWhatTheyWere) {
  for (const std::string& family : kTinyFamilies) {
    const ScratchFolder scratch;
    EXPECT_EQ(logits_of(packed_of(tiny_folder(family), scratch), family), logits_of(tiny_folder(family), family));
  }
  for (const bool dynamic : {true, false}) {
    nlohmann::ordered_json activations = weights(8, !dynamic, dynamic ? "token" : "tensor");
    activations["dynamic"] = dynamic;
    const Artifact artifact("qwen2", w8a8(activations));
    const ScratchFolder scratch;
    EXPECT_EQ(logits_of(packed_of(artifact.quantized.path(), scratch), "qwen2"),
              logits_of(artifact.quantized.path(), "qwen2"));
  }
}

TEST(PackedModel, LoadingTakesNoMemoryOfItsOwn) {
  const Artifact artifact("glm4", config(linear(weights(4, true, "group", 32))));
  const ScratchFolder scratch;
  const auto opened = must(Weights::open(packed_of(artifact.quantized.path(), scratch)));
  const Weights::Bytes packed = must(opened->bytes());
  EXPECT_EQ(packed.packed, 0);
  kernels::ThreadPool pool(1);
  const auto once = must(opened->linears({&opened->head()}, pool, nullptr));
  const auto again = must(opened->linears({&opened->head()}, pool, nullptr));
  EXPECT_EQ(once[0].weight.bytes().data(), again[0].weight.bytes().data());  // where the file is mapped, no copy
  EXPECT_GT(packed.mapped, must(must(Weights::open(artifact.quantized.path()))->bytes()).packed);
}

/// A packed folder whose packed.json and tensors can be changed.
class PackedFolder {
 public:
  PackedFolder() : artifact_("glm4", config(linear(weights(4, true, "group", 32)))) {
    folder_ = packed_of(artifact_.quantized.path(), scratch_);
    bytes_ = must(format::read_text_file(file()));
    tensors_ = must(format::parse_safetensors(std::as_bytes(std::span(bytes_)))).tensors;
  }

  std::filesystem::path file() const { return folder_ / "model.safetensors"; }
  const std::filesystem::path& path() const { return folder_; }
  const Artifact& artifact() const { return artifact_; }

  char* tensor(const std::string& name) {
    for (const format::TensorInfo& info : tensors_) {
      if (info.name == name) return bytes_.data() + info.offset;
    }
    throw std::runtime_error(name);
  }
  size_t size(const std::string& name) const {
    for (const format::TensorInfo& info : tensors_) {
      if (info.name == name) return static_cast<size_t>(info.nbytes);
    }
    throw std::runtime_error(name);
  }

  /// Replaces `from`, of the same length, in packed.json, and its checksum.
  void edit(const std::string& from, const std::string& to) {
    ASSERT_EQ(from.size(), to.size());
    char* const begin = tensor("packed.json");
    char* const end = begin + size("packed.json");
    char* const at = std::search(begin, end, from.begin(), from.end());
    ASSERT_NE(at, end) << from;
    std::copy(to.begin(), to.end(), at);
    const std::string sum = sha256({begin, size("packed.json")});
    std::copy(sum.begin(), sum.end(), tensor("packed.sha256"));
  }

  void save() const { std::ofstream(file(), std::ios::binary) << bytes_; }

  /// What opening and verifying says, one line of kBadInput.
  std::string refusal() const {
    save();
    kernels::ThreadPool pool(2);
    const auto opened = PackedModel::open(folder_);
    const Status status = opened.ok() ? opened->verify(pool) : opened.status();
    EXPECT_EQ(status.code(), StatusCode::kBadInput);
    EXPECT_EQ(status.message().find('\n'), std::string::npos);
    return status.message();
  }

 private:
  Artifact artifact_;
  ScratchFolder scratch_;
  std::filesystem::path folder_;
  std::string bytes_;
  std::vector<format::TensorInfo> tensors_;
};

TEST(PackedModel, VerifiesWhatWasWritten) {
  const PackedFolder folder;
  kernels::ThreadPool pool(2);
  EXPECT_TRUE(must(PackedModel::open(folder.path())).verify(pool).ok());
}

TEST(PackedModel, AFlippedBitIsFound) {
  for (const char* tensor : {"model.layers.0.self_attn.o_proj.packed", "model.norm.weight", "packed.json"}) {
    PackedFolder folder;
    *(folder.tensor(tensor) + folder.size(tensor) / 2) ^= 4;
    EXPECT_THAT(folder.refusal(), HasSubstr(tensor));
  }
}

TEST(PackedModel, AnotherVersionOrLayoutIsNamed) {
  {
    PackedFolder folder;
    folder.edit(R"("version":1)", R"("version":2)");
    EXPECT_THAT(folder.refusal(), HasSubstr("version 2"));
  }
  PackedFolder folder;
  folder.edit("rows16-columns32", "rows32-columns64");
  EXPECT_THAT(folder.refusal(), HasSubstr("rows32-columns64"));
}

TEST(PackedModel, WhatContradictsConfigOrFileIsNamed) {
  const std::pair<std::string, std::string> edits[] = {{R"("bits":4)", R"("bits":9)"},
                                                       {R"("bits":4)", R"("bits":3)"},
                                                       {R"("symmetric":true)", R"("symmetric":1234)"},
                                                       {R"("scales":"F32")", R"("scales":"F31")"},
                                                       {R"("type":"quantized")", R"("type":"qnantized")"},
                                                       {R"("rows":128)", R"("rows":127)"},
                                                       {R"("cols":128)", R"("cols":-12)"},
                                                       {R"(o_proj","type)", R"(p_proj","type)"},
                                                       {R"("vectors":)", R"("vectorz":)"},
                                                       {R"("matrices":)", R"("matricez":)"},
                                                       {R"(model.norm.weight",)", R"(model.norn.weight",)"},
                                                       {R"("group_cols":32)", R"("group_cols":99)"},
                                                       {R"({"version")", R"([[version")"}};
  for (const auto& [from, to] : edits) {
    PackedFolder folder;
    folder.edit(from, to);
    EXPECT_THAT(folder.refusal(), HasSubstr("pack the model again")) << to;
  }
}

TEST(PackedModel, WhatNobodyAskedForIsNamed) {
  PackedFolder folder;  // two entries of the same length, in which one name takes another's place
  folder.edit(R"("name":"model.layers.0.post_mlp_layernorm.weight")",
              R"("name":"model.layers.0.post_mlp_layernorn.weight")");
  EXPECT_THAT(folder.refusal(), HasSubstr("post_mlp_layernor"));
}

TEST(PackedModel, NumbersThatAreNoneAreNamed) {
  PackedFolder folder;
  const float nan = std::nanf("");
  std::memcpy(folder.tensor("model.norm.weight") + 8, &nan, sizeof nan);
  folder.save();
  kernels::ThreadPool pool(1);
  const Status status = Model::load(must(Weights::open(folder.path())), pool).status();
  EXPECT_EQ(status.code(), StatusCode::kBadInput);
  EXPECT_THAT(status.message(), HasSubstr("'model.norm.weight': element 2"));
}

TEST(PackedModel, TruncatedFilesAndForeignConfigsAreRefused) {
  {
    const PackedFolder folder;
    std::filesystem::resize_file(folder.file(), std::filesystem::file_size(folder.file()) - 1);
    EXPECT_EQ(Weights::open(folder.path()).status().code(), StatusCode::kBadInput);
  }
  const PackedFolder folder;
  std::string config = must(format::read_text_file(folder.path() / "config.json"));
  config.replace(config.find("\"intermediate_size\": 256"), 24, "\"intermediate_size\": 272");
  std::ofstream(folder.path() / "config.json") << config;
  EXPECT_THAT(Weights::open(folder.path()).status().message(), HasSubstr("rows where config.json has"));
}

TEST(Pack, KeepsWhatStands) {
  const PackedFolder folder;
  EXPECT_THAT(pack(folder.path(), folder.path().parent_path() / "again").status().message(),
              HasSubstr("is packed already"));
  EXPECT_EQ(pack(folder.artifact().quantized.path(), folder.path()).status().code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(pack(folder.artifact().quantized.path(), folder.path(), {.overwrite = true}).ok());
  const std::filesystem::path source = folder.artifact().quantized.path();
  EXPECT_EQ(pack(source, source, {.overwrite = true}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(WeightReader::open(source).ok());
  EXPECT_EQ(pack(source, folder.path() / "x", {.threads = 100000}).status().code(), StatusCode::kInvalidArgument);

  const ScratchFolder scratch;
  CancelToken cancel;
  cancel.cancel();
  EXPECT_EQ(pack(folder.artifact().quantized.path(), scratch.path() / "out", {.cancel = &cancel}).status().code(),
            StatusCode::kCancelled);
  EXPECT_TRUE(std::filesystem::is_empty(scratch.path()));
}

TEST(Pack, GivesTheSameBytesForAnyNumberOfThreads) {
  const PackedFolder folder;
  const ScratchFolder scratch;
  ASSERT_TRUE(pack(folder.artifact().quantized.path(), scratch.path() / "one", {.threads = 1}).ok());
  EXPECT_EQ(must(format::read_text_file(scratch.path() / "one/model.safetensors")),
            must(format::read_text_file(folder.file())));
}

}  // namespace
}  // namespace autoglm::engine
