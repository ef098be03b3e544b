#include "core/format/staging_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <functional>

#include "core/format/checkpoint_writer.h"
#include "core/format/testing.h"

namespace autoglm::format {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class StagingFolderTest : public FolderTest {
 protected:
  void SetUp() override {
    // In memory where possible: the tests below fsync some thousand times.
    make_folder(fs::is_directory("/dev/shm") ? fs::path("/dev/shm") : fs::temp_directory_path());
    target_ = folder_ / "out";
  }
  std::vector<std::string> siblings() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_)) names.push_back(entry.path().filename().string());
    return names;
  }
  Status create_status(const fs::path& target, bool overwrite = false) const {
    return StagingFolder::create(target, overwrite).status();
  }
  fs::path target_;
};

TEST_F(StagingFolderTest, PublishesAtOnceAndCreatesParents) {
  const fs::path target = folder_ / "a/b/out/";
  {
    auto folder = StagingFolder::create(target, false);
    ASSERT_TRUE(folder.ok()) << folder.status().message();
    EXPECT_EQ(folder->target(), folder_ / "a/b/out");
    EXPECT_EQ(folder->path().parent_path(), folder_ / "a/b");
    write(folder->path().lexically_relative(folder_) / "x", "1");
    ASSERT_TRUE(folder->publish().ok());
  }
  EXPECT_EQ(*read_text_file(folder_ / "a/b/out/x"), "1");
}

TEST_F(StagingFolderTest, RemovesWhatItMadeWhenNotPublished) {
  { ASSERT_TRUE(StagingFolder::create(folder_ / "a/b/out", false).ok()); }
  EXPECT_THAT(siblings(), ::testing::IsEmpty());
}

TEST_F(StagingFolderTest, RefusesTargetsThatItMayNotReplace) {
  fs::create_directory(target_);
  EXPECT_TRUE(create_status(target_).ok());  // an empty folder has nothing to lose
  write("out/notes.txt", "mine");
  EXPECT_THAT(create_status(target_).message(), HasSubstr("pass --overwrite"));
  EXPECT_THAT(create_status(target_, true).message(), HasSubstr("holds no config.json"));
  EXPECT_THAT(create_status(target_ / "notes.txt", true).message(), HasSubstr("no folder"));
  EXPECT_THAT(create_status(target_ / "notes.txt/x").message(), HasSubstr("Not a directory"));
  write("out/config.json", "{}");
  EXPECT_TRUE(create_status(target_, true).ok());
  EXPECT_EQ(create_status("").code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(create_status("/").code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(*read_text_file(target_ / "notes.txt"), "mine");
}

TEST_F(StagingFolderTest, FollowsALink) {
  fs::create_directory(folder_ / "real");
  write("real/config.json", "old");
  fs::create_symlink("real", target_);
  auto folder = StagingFolder::create(target_, true);
  ASSERT_TRUE(folder.ok());
  EXPECT_EQ(folder->target(), folder_ / "real");
  write(folder->path().filename() / "config.json", "new");
  ASSERT_TRUE(folder->publish().ok());
  EXPECT_TRUE(fs::is_symlink(target_));
  EXPECT_EQ(*read_text_file(target_ / "config.json"), "new");
  fs::create_symlink("nowhere", folder_ / "dangling");
  EXPECT_THAT(create_status(folder_ / "dangling").message(), HasSubstr("link to nothing"));
}

TEST_F(StagingFolderTest, ExchangesOrMovesAside) {
  for (const bool exchange : {true, false}) {
    fs::create_directory(target_);
    write("out/config.json", "old");
    write("out/gone", "");
    auto folder = StagingFolder::create(target_, true);
    ASSERT_TRUE(folder.ok());
    write(folder->path().filename() / "config.json", "new");
    ASSERT_TRUE(folder->publish(exchange).ok());
    EXPECT_EQ(*read_text_file(target_ / "config.json"), "new");
    EXPECT_EQ(siblings(), std::vector<std::string>{"out"});
    EXPECT_FALSE(fs::exists(target_ / "gone"));
    fs::remove_all(target_);
  }
}

TEST_F(StagingFolderTest, LosesARaceWithoutHarm) {
  auto first = StagingFolder::create(target_, false);
  auto second = StagingFolder::create(target_, false);
  ASSERT_TRUE(first.ok() && second.ok());  // the living are left alone
  write(first->path().filename() / "x", "first");
  write(second->path().filename() / "x", "second");
  ASSERT_TRUE(second->publish().ok());
  EXPECT_THAT(first->publish().message(), HasSubstr("by someone else"));
  EXPECT_EQ(*read_text_file(target_ / "x"), "second");
}

TEST_F(StagingFolderTest, ClearsLeftoversOfTheDeadAlone) {
  fs::create_directories(folder_ / ".out.autoglm-tmp-1-0/sub");
  write(".out.autoglm-tmp-1-0/sub/x", "");
  fs::create_directory(folder_ / ".outer.autoglm-tmp-1-0");
  auto living = StagingFolder::create(target_, false);
  auto next = StagingFolder::create(target_, false);
  ASSERT_TRUE(living.ok() && next.ok());
  EXPECT_FALSE(fs::exists(folder_ / ".out.autoglm-tmp-1-0"));
  EXPECT_TRUE(fs::exists(folder_ / ".outer.autoglm-tmp-1-0"));
  EXPECT_TRUE(fs::exists(living->path()));
}

TEST_F(StagingFolderTest, LongNamesThatBeginAlikeShareNoLeftovers) {
  const std::string start(200, 'n');
  fs::path left;  // as a writer for the first target left it when it was killed
  {
    auto folder = StagingFolder::create(folder_ / (start + "-1"), false);
    ASSERT_TRUE(folder.ok()) << folder.status().message();
    left = folder->path();
  }
  fs::create_directory(left);
  { EXPECT_TRUE(create_status(folder_ / (start + "-2")).ok()); }
  EXPECT_TRUE(fs::exists(left));
  { EXPECT_TRUE(create_status(folder_ / (start + "-1")).ok()); }
  EXPECT_FALSE(fs::exists(left));
  EXPECT_TRUE(create_status(folder_ / std::string(255, 'n')).ok());
}

TEST_F(StagingFolderTest, BringsBackAnOldTarget) {
  fs::create_directory(folder_ / ".out.autoglm-old-1-0");
  write(".out.autoglm-old-1-0/config.json", "old");
  EXPECT_THAT(create_status(target_).message(), HasSubstr("exists"));
  EXPECT_EQ(*read_text_file(target_ / "config.json"), "old");
  fs::create_directory(folder_ / ".out.autoglm-old-1-1");  // the target stands: nothing to bring back
  EXPECT_FALSE(create_status(target_).ok());
  EXPECT_EQ(siblings(), std::vector<std::string>{"out"});
}

TEST_F(StagingFolderTest, UnwritableParentIsOneLine) {
  if (geteuid() != 0) {
    fs::permissions(folder_, fs::perms::owner_read | fs::perms::owner_exec);
  } else {
    ASSERT_EQ(seteuid(65534), 0);  // root may write everywhere
  }
  const Status status = create_status("/proc/self/out");
  const Status denied = create_status(target_);
  const bool restored = getuid() != 0 || seteuid(0) == 0;
  ASSERT_TRUE(restored);
  fs::permissions(folder_, fs::perms::owner_all);
  EXPECT_EQ(status.code(), StatusCode::kBadInput) << status.message();
  EXPECT_EQ(denied.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(denied.message(), HasSubstr("Permission denied"));
}

/// Runs `work` in a child that stops as it enters and as it leaves a system call, for `at_stop`. Returns how it ended,
/// as waitpid says it.
int run_traced(const std::function<void()>& work, const std::function<void(pid_t)>& at_stop) {
  const pid_t child = fork();
  if (child == 0) {
    ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    raise(SIGSTOP);
    work();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  ptrace(PTRACE_SETOPTIONS, child, nullptr, PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD);
  while (!WIFEXITED(status) && !WIFSIGNALED(status)) {
    if (WIFSTOPPED(status) && WSTOPSIG(status) == (SIGTRAP | 0x80)) at_stop(child);
    ptrace(PTRACE_SYSCALL, child, nullptr, nullptr);
    if (waitpid(child, &status, 0) < 0) break;
  }
  return status;
}

/// Runs `work` in a child that is killed (SIGKILL) as it enters its `calls`-th system call. Returns whether it was
/// killed; false: it ended before.
bool run_killed_at(int calls, const std::function<void()>& work) {
  int stops = 0;
  const int status = run_traced(work, [&](pid_t child) {
    if (++stops == 2 * calls - 1) kill(child, SIGKILL);
  });
  return WIFSIGNALED(status);
}

bool renames(const __ptrace_syscall_info& info) {
#ifdef SYS_rename
  if (info.entry.nr == SYS_rename) return true;
#endif
  return info.entry.nr == SYS_renameat || info.entry.nr == SYS_renameat2;
}

/// The inodes that `work` flushes to the disk (fsync), in order, with 0 where it renames something. Empty where the
/// kernel tells nothing of system calls.
std::vector<ino_t> flushes_and_renames(const std::function<void()>& work) {
  std::vector<ino_t> events;
  run_traced(work, [&](pid_t child) {
    __ptrace_syscall_info info{};
    if (ptrace(PTRACE_GET_SYSCALL_INFO, child, sizeof(info), &info) <= 0 || info.op != PTRACE_SYSCALL_INFO_ENTRY)
      return;
    if (renames(info)) events.push_back(0);
    if (info.entry.nr != SYS_fsync) return;
    struct stat file {};
    const auto open_file = fs::path("/proc") / std::to_string(child) / "fd" / std::to_string(info.entry.args[0]);
    if (stat(open_file.c_str(), &file) == 0) events.push_back(file.st_ino);
  });
  return events;
}

ino_t inode_of(const fs::path& path) {
  struct stat file {};
  return stat(path.c_str(), &file) == 0 ? file.st_ino : 0;
}

bool can_trace() {
  const pid_t child = fork();
  if (child == 0) _exit(ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0 ? 0 : 1);
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/// Writes a checkpoint of two shards whose every tensor is `value`.
void write_checkpoint(const fs::path& target, int value) {
  auto writer = CheckpointWriter::create(target, {.max_shard_bytes = 100, .overwrite = true});
  const std::vector<std::byte> bytes(96, static_cast<std::byte>(value));
  if (!writer.ok() || !writer->add("a", DType::kU8, {96}, bytes).ok() ||
      !writer->add("b", DType::kU8, {96}, bytes).ok() ||
      !writer->write_file("config.json", std::to_string(value)).ok() || !writer->commit().ok()) {
    _exit(1);
  }
}

/// The value that the whole of a checkpoint holds; -1 when there is none; fails the test when it is mixed or broken.
int value_of(const fs::path& target) {
  if (!fs::exists(target)) return -1;
  const auto checkpoint = Checkpoint::open(target);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  if (!checkpoint.ok()) return -2;
  const auto first = checkpoint->bytes("a"), second = checkpoint->bytes("b");
  if (!first.ok() || !second.ok()) return -2;
  const int value = static_cast<int>(first->front());
  for (const auto& bytes : {*first, *second}) {
    for (const std::byte b : bytes) EXPECT_EQ(static_cast<int>(b), value);
  }
  EXPECT_EQ(*read_text_file(target / "config.json"), std::to_string(value));
  return value;
}

// The promise of CheckpointWriter, at every point where a process can die as seen from outside.
TEST_F(StagingFolderTest, KilledAtAnySystemCallTheTargetIsWhole) {
  if (!can_trace()) GTEST_SKIP() << "ptrace is not permitted here";
  int killed = 0, before = 0, after = 0;
  for (const bool existing : {false, true}) {
    for (int calls = 1;; ++calls) {
      fs::remove_all(folder_);
      fs::create_directory(folder_);
      if (existing) write_checkpoint(target_, 1);
      const bool was_killed = run_killed_at(calls, [&] { write_checkpoint(target_, 2); });
      const int value = value_of(target_);
      EXPECT_TRUE(value == 2 || value == (existing ? 1 : -1)) << value;
      (value == 2 ? after : before) += 1;
      killed += was_killed;
      write_checkpoint(target_, 3);  // the next writer clears what was left
      EXPECT_EQ(value_of(target_), 3);
      EXPECT_EQ(siblings(), std::vector<std::string>{"out"});
      if (HasFailure()) FAIL() << "killed at system call " << calls;
      if (!was_killed) break;
    }
  }
  EXPECT_GT(killed, 60);
  EXPECT_GT(before, 30);
  EXPECT_GT(after, 2);
}

// The same of the machine: what is renamed into place has reached the disk before, and the name itself before the end.
TEST_F(StagingFolderTest, FlushesEverythingBeforeItIsPutInPlace) {
  if (!can_trace()) GTEST_SKIP() << "ptrace is not permitted here";
  for (const bool existing : {false, true}) {
    if (existing) write_checkpoint(target_, 1);
    const std::vector<ino_t> events = flushes_and_renames([&] { write_checkpoint(target_, 2); });
    if (events.empty()) GTEST_SKIP() << "this kernel does not tell a tracer of system calls (PTRACE_GET_SYSCALL_INFO)";
    const auto last = std::find(events.rbegin(), events.rend(), ino_t{0}).base();  // behind the rename of the folder
    ASSERT_NE(last, events.begin());
    const std::vector<ino_t> before(events.begin(), last), after(last, events.end());
    int files = 0;
    for (const auto& entry : fs::directory_iterator(target_)) {
      EXPECT_THAT(before, ::testing::Contains(inode_of(entry.path()))) << entry.path();
      ++files;
    }
    EXPECT_EQ(files, 4);  // two shards, their index, config.json
    EXPECT_THAT(before, ::testing::Contains(inode_of(target_)));
    EXPECT_THAT(after, ::testing::Contains(inode_of(folder_)));
  }
}

TEST_F(StagingFolderTest, KilledWithoutExchangeTheOldFolderComesBack) {
  if (!can_trace()) GTEST_SKIP() << "ptrace is not permitted here";
  bool seen_absent = false;
  for (int calls = 1;; ++calls) {
    fs::remove_all(folder_);
    fs::create_directory(folder_);
    fs::create_directory(target_);
    write("out/config.json", "1");
    const bool was_killed = run_killed_at(calls, [&] {
      auto folder = StagingFolder::create(target_, true);
      if (!folder.ok()) _exit(1);
      write(folder->path().filename() / "config.json", "2");
      if (!folder->publish(false).ok()) _exit(1);
    });
    const auto content = read_text_file(target_ / "config.json");
    seen_absent |= !fs::exists(target_);
    { EXPECT_TRUE(create_status(target_, true).ok()); }
    const auto recovered = read_text_file(target_ / "config.json");
    ASSERT_TRUE(recovered.ok()) << calls;
    EXPECT_TRUE(*recovered == "1" || *recovered == "2");
    EXPECT_TRUE(!content.ok() || *content == *recovered);
    EXPECT_EQ(siblings(), std::vector<std::string>{"out"}) << calls;
    if (!was_killed) break;
  }
  EXPECT_TRUE(seen_absent);  // the window that exchanging avoids
}

TEST_F(StagingFolderTest, FullFilesystemIsOneLine) {
  if (mount("none", folder_.c_str(), "tmpfs", 0, "size=1m") != 0) GTEST_SKIP() << "mounting needs root";
  Status status;
  {
    auto writer = CheckpointWriter::create(target_);
    ASSERT_TRUE(writer.ok()) << writer.status().message();
    ASSERT_TRUE(writer->add("a", DType::kU8, {256}, std::vector<std::byte>(256)).ok());
    status = writer->add("b", DType::kU8, {2 << 20}, std::vector<std::byte>(2 << 20));
  }
  const auto left = siblings();
  const auto refused = CheckpointWriter::create(target_, {.expected_bytes = 2 << 20});
  umount(folder_.c_str());
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(),
              HasSubstr(target_.string() + ": cannot write: No space left on device; tensor 'b' needs 2.10 MB"));
  EXPECT_THAT(left, ::testing::IsEmpty());
  EXPECT_THAT(refused.status().message(), HasSubstr("the disk has only 1.05 MB free"));
}

TEST_F(StagingFolderTest, ReadOnlyFilesystemIsOneLine) {
  if (mount("none", folder_.c_str(), "tmpfs", MS_RDONLY, "size=1m") != 0) GTEST_SKIP() << "mounting needs root";
  const Status status = create_status(target_);
  umount(folder_.c_str());
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("Read-only file system"));
}

}  // namespace
}  // namespace autoglm::format
