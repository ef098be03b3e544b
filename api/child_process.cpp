#include "api/child_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>

extern char** environ;

namespace autoglm::api {
namespace {

constexpr int kPollMilliseconds = 100;

// A pipe whose ends close with it.
struct Pipe {
  std::array<int, 2> ends{-1, -1};
  Pipe() = default;
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  ~Pipe() {
    close_end(0);
    close_end(1);
  }
  bool open() { return ::pipe2(ends.data(), O_CLOEXEC) == 0; }
  void close_end(int i) {
    if (ends[i] >= 0) ::close(ends[i]);
    ends[i] = -1;
  }
};

// Appends what can be read; false at the end of the stream.
bool drain(int fd, std::string& into) {
  std::array<char, 65536> buffer;
  const ssize_t n = ::read(fd, buffer.data(), buffer.size());
  if (n < 0) return errno == EINTR || errno == EAGAIN;
  into.append(buffer.data(), static_cast<size_t>(n));
  return n > 0;
}

// Prints all whole lines of `text` but the last, and keeps the rest.
void pass_on_lines(std::string& text) {
  if (text.size() < 2) return;
  const size_t last = text.rfind('\n', text.size() - 2);
  if (last == std::string::npos) return;
  std::fwrite(text.data(), 1, last + 1, stderr);
  text.erase(0, last + 1);
}

int wait_for(pid_t child) {
  int state = 0;
  while (::waitpid(child, &state, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(state) ? WEXITSTATUS(state) : 128 + WTERMSIG(state);
}

}  // namespace

Result<ChildOutput> run_child(const std::string& program, const std::vector<std::string>& arguments,
                              CancelToken& cancel) {
  const auto failed = [&](int error) {
    return resource_exhausted(fmt::format("cannot start {}: {}", program, std::strerror(error)));
  };
  Pipe out, errors;
  if (!out.open() || !errors.open()) return failed(errno);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, out.ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, errors.ends[1], STDERR_FILENO);
  std::vector<char*> argv = {const_cast<char*>(program.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  pid_t child = -1;
  const int error = ::posix_spawnp(&child, program.c_str(), &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return failed(error);
  out.close_end(1);
  errors.close_end(1);

  ChildOutput result;
  bool interrupted = false;
  std::array<pollfd, 2> streams = {pollfd{out.ends[0], POLLIN, 0}, pollfd{errors.ends[0], POLLIN, 0}};
  while (streams[0].fd >= 0 || streams[1].fd >= 0) {
    if (cancel.is_cancelled() && !interrupted) {
      ::kill(child, SIGINT);
      interrupted = true;
    }
    if (::poll(streams.data(), streams.size(), kPollMilliseconds) <= 0) continue;
    if (streams[0].revents != 0 && !drain(streams[0].fd, result.out)) streams[0].fd = -1;
    if (streams[1].revents != 0 && !drain(streams[1].fd, result.error)) streams[1].fd = -1;
    pass_on_lines(result.error);
  }
  result.exit_code = wait_for(child);
  if (result.exit_code == 0) std::fwrite(result.error.data(), 1, result.error.size(), stderr);
  while (!result.error.empty() && result.error.back() == '\n') result.error.pop_back();
  AUTOGLM_RETURN_IF_ERROR(cancel.check());
  return result;
}

}  // namespace autoglm::api
