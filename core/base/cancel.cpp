#include "core/base/cancel.h"

#include <unistd.h>

#include <csignal>

namespace autoglm {
namespace {

void on_signal(int) {
  if (CancelToken::global().is_cancelled()) _exit(static_cast<int>(StatusCode::kCancelled));
  CancelToken::global().cancel();
}

bool is_ignored(int signal) {
  struct sigaction action = {};
  return sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}

}  // namespace

CancelToken& CancelToken::global() {
  static CancelToken token;
  return token;
}

void install_signal_handlers() {
  CancelToken::global();  // constructed before any signal can arrive
  struct sigaction action = {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  if (!is_ignored(SIGHUP)) sigaction(SIGHUP, &action, nullptr);  // nohup ignores it
  std::signal(SIGXFSZ, SIG_IGN);                                 // the write that is too large says so
}

}  // namespace autoglm
