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
    setenv("HF_HUB_CACHE", cache_.c_str(), 1);
  }
  void TearDown() override {
    unsetenv("HF_HUB_CACHE");
    fs::remove_all(cache_);
  }
  fs::path cache_;
};

TEST_F(FindModel, TakesAFolderAsItIs) { EXPECT_EQ(*find_model(cache_.string()), cache_); }

TEST_F(FindModel, FindsAnIdInTheCache) {
  const fs::path snapshot = cache_ / "models--THUDM--glm-edge" / "snapshots" / "abc123";
  EXPECT_EQ(*find_model("THUDM/glm-edge"), snapshot);
  EXPECT_EQ(*find_model("THUDM/glm-edge@abc123"), snapshot);
}

TEST_F(FindModel, SaysWhereItLooked) {
  EXPECT_EQ(find_model("").status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(find_model("no such folder").status().message(), "no such folder: no such folder");
  EXPECT_NE(find_model("THUDM/absent").status().message().find("models--THUDM--absent"), std::string::npos);
  EXPECT_NE(find_model("THUDM/glm-edge@v9").status().message().find("revision 'v9'"), std::string::npos);
  EXPECT_FALSE(find_model("../../etc/passwd").ok());
  std::ofstream(cache_ / "file") << "x";
  EXPECT_NE(find_model((cache_ / "file").string()).status().message().find("is a file"), std::string::npos);
}

}  // namespace
}  // namespace autoglm::api
