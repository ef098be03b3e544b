#include "api/model_source.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace autoglm::api {
namespace {

namespace fs = std::filesystem;

class FindModel : public testing::Test {
 protected:
  void SetUp() override {
    cache_ = fs::path(testing::TempDir()) / "hf-cache";
    fs::remove_all(cache_);
    const fs::path repository = cache_ / "models--THUDM--glm-edge";
    fs::create_directories(repository / "snapshots" / "abc123");
    fs::create_directories(repository / "refs");
    std::ofstream(repository / "refs" / "main") << "abc123";
    for (const fs::path& file : fs::directory_iterator(AUTOGLM_SOURCE_DIR "/models/glm-phone-demo")) {
      if (fs::is_regular_file(file)) fs::copy_file(file, repository / "snapshots" / "abc123" / file.filename());
    }
    setenv("HF_HUB_CACHE", cache_.c_str(), 1);
    setenv("HF_HUB_OFFLINE", "1", 1);
  }
  void TearDown() override {
    unsetenv("HF_HUB_CACHE");
    unsetenv("HF_HUB_OFFLINE");
    fs::remove_all(cache_);
  }
  fs::path cache_;
};

TEST_F(FindModel, TakesAFolderAsItIs) { EXPECT_EQ(*find_model(cache_.string(), CancelToken::global()), cache_); }

TEST_F(FindModel, FindsAnIdInTheCache) {
  const fs::path snapshot = cache_ / "models--THUDM--glm-edge" / "snapshots" / "abc123";
  EXPECT_EQ(*find_model("THUDM/glm-edge", CancelToken::global()), snapshot);
  EXPECT_EQ(*find_model("THUDM/glm-edge@abc123", CancelToken::global()), snapshot);
}

TEST_F(FindModel, SaysWhereItLooked) {
  EXPECT_EQ(find_model("", CancelToken::global()).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(find_model("no such folder", CancelToken::global()).status().message(), "no such folder: no such folder");
  EXPECT_NE(find_model("THUDM/absent", CancelToken::global()).status().message().find("models--THUDM--absent"),
            std::string::npos);
  EXPECT_NE(find_model("THUDM/glm-edge@v9", CancelToken::global()).status().message().find("revision 'v9'"),
            std::string::npos);
  EXPECT_FALSE(find_model("../../etc/passwd", CancelToken::global()).ok());
  std::ofstream(cache_ / "file") << "x";
  EXPECT_NE(find_model((cache_ / "file").string(), CancelToken::global()).status().message().find("is a file"),
            std::string::npos);
}

}  // namespace
}  // namespace autoglm::api
