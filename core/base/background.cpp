#include "core/base/background.h"

#include <utility>

namespace autoglm {

Background::~Background() {
  if (running_.valid()) running_.wait();
}

Status Background::start(std::function<Status()> task) {
  AUTOGLM_RETURN_IF_ERROR(wait());
  running_ = std::async(std::launch::async, std::move(task));
  return ok_status();
}

Status Background::wait() { return running_.valid() ? running_.get() : ok_status(); }

}  // namespace autoglm
