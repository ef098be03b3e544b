#include "core/base/background.h"

#include <memory>
#include <system_error>
#include <utility>

namespace autoglm {

Background::~Background() {
  if (running_.valid()) running_.wait();
}

Status Background::start(std::function<Status()> task) {
  AUTOGLM_RETURN_IF_ERROR(wait());
  const auto kept = std::make_shared<std::function<Status()>>(std::move(task));
  try {
    running_ = std::async(std::launch::async, [kept] { return (*kept)(); });
  } catch (const std::system_error&) {  // the system has no more threads
    return (*kept)();
  }
  return ok_status();
}

Status Background::wait() { return running_.valid() ? running_.get() : ok_status(); }

}  // namespace autoglm
