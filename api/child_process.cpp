#include "api/child_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <optional>
#include <string_view>

#include "core/base/log.h"

namespace autoglm::api {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kPollMilliseconds = 100;
constexpr auto kGrace = std::chrono::milliseconds(500);  // between asking a child to end and making it

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

// A line with its end. Warnings become ours, so that none is printed that was given before.
void pass_on(std::string_view line) {
  constexpr std::string_view kPrefix = "warning: ";
  if (line.starts_with(kPrefix) && line.ends_with('\n')) {
    warn(std::string(line.substr(kPrefix.size(), line.size() - kPrefix.size() - 1)));
  } else {
    std::fwrite(line.data(), 1, line.size(), stderr);
  }
}

// Passes on all whole lines of `text` but the last, and keeps the rest.
void pass_on_lines(std::string& text) {
  size_t begin = 0;
  for (size_t end = text.find('\n'); end != std::string::npos && end + 1 < text.size(); end = text.find('\n', begin)) {
    pass_on(std::string_view(text).substr(begin, end + 1 - begin));
    begin = end + 1;
  }
  text.erase(0, begin);
}

int wait_for(pid_t child) {
  int state = 0;
  while (::waitpid(child, &state, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(state) ? WEXITSTATUS(state) : kSignalled + WTERMSIG(state);
}

// Turns a forked child into the program; `failure` takes the error of what cannot be started. Other threads were not
// forked with this one, so that nothing here may allocate or lock.
[[noreturn]] void become(char* const* argv, pid_t parent, int out, int errors, int failure) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(kSignalled + SIGKILL);  // it ended before that was set
  ::dup2(out, STDOUT_FILENO);
  ::dup2(errors, STDERR_FILENO);
  ::execvp(argv[0], argv);
  const int error = errno;
  const ssize_t told = ::write(failure, &error, sizeof error);
  ::_exit(told == sizeof error ? 127 : 126);
}

// The child's id in `child`; returns an error number or 0.
int start(const std::string& program, const std::vector<std::string>& arguments, Pipe& out, Pipe& errors,
          pid_t& child) {
  Pipe failure;
  if (!out.open() || !errors.open() || !failure.open()) return errno;
  std::vector<char*> argv = {const_cast<char*>(program.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const pid_t parent = ::getpid();
  child = ::fork();
  if (child < 0) return errno;
  if (child == 0) become(argv.data(), parent, out.ends[1], errors.ends[1], failure.ends[1]);
  out.close_end(1);
  errors.close_end(1);
  failure.close_end(1);
  int error = 0;  // nothing comes when the program starts: its end of the pipe closes
  ssize_t got = 0;
  while ((got = ::read(failure.ends[0], &error, sizeof error)) < 0 && errno == EINTR) {
  }
  if (got <= 0) return 0;
  wait_for(child);
  return error;
}

}  // namespace

Result<ChildOutput> run_child(const std::string& program, const std::vector<std::string>& arguments,
                              CancelToken& cancel) {
  Pipe out, errors;
  pid_t child = -1;
  if (const int error = start(program, arguments, out, errors, child); error != 0) {
    return resource_exhausted(fmt::format("cannot start {}: {}", program, std::strerror(error)));
  }

  ChildOutput result;
  std::optional<Clock::time_point> interrupted;
  std::array<pollfd, 2> streams = {pollfd{out.ends[0], POLLIN, 0}, pollfd{errors.ends[0], POLLIN, 0}};
  while (streams[0].fd >= 0 || streams[1].fd >= 0) {
    if (cancel.is_cancelled() && !interrupted) {
      ::kill(child, SIGINT);
      interrupted = Clock::now();
    }
    if (interrupted && Clock::now() - *interrupted > kGrace) ::kill(child, SIGKILL);
    if (::poll(streams.data(), streams.size(), kPollMilliseconds) <= 0) continue;
    if (streams[0].revents != 0 && !drain(streams[0].fd, result.out)) streams[0].fd = -1;
    if (streams[1].revents != 0 && !drain(streams[1].fd, result.error)) streams[1].fd = -1;
    pass_on_lines(result.error);
  }
  result.exit_code = wait_for(child);
  if (result.exit_code == 0) pass_on(result.error);
  while (!result.error.empty() && result.error.back() == '\n') result.error.pop_back();
  AUTOGLM_RETURN_IF_ERROR(cancel.check());
  return result;
}

}  // namespace autoglm::api
