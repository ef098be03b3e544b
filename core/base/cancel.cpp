#include "core/base/cancel.h"

#include <unistd.h>

#include <csignal>

namespace autoglm {
namespace {

void on_signal(int) {
  if (CancelToken::global().is_cancelled()) _exit(static_cast<int>(StatusCode::kCancelled));
  CancelToken::global().cancel();
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
}

}  // namespace autoglm
