#pragma once
/// Status and Result are part of the public interface (include/autoglm/status.h); inside the library there are also the
/// two macros that pass a failure on.
#include <autoglm/status.h>

#include <utility>

#define AUTOGLM_CONCAT_INNER(a, b) a##b
#define AUTOGLM_CONCAT(a, b) AUTOGLM_CONCAT_INNER(a, b)

/// Returns from the enclosing function when `expr` (a Status) is not OK.
#define AUTOGLM_RETURN_IF_ERROR(expr)                                                              \
  do {                                                                                             \
    if (::autoglm::Status autoglm_status_ = (expr); !autoglm_status_.ok()) return autoglm_status_; \
  } while (false)

/// `AUTOGLM_ASSIGN_OR_RETURN(auto file, open(path));` unwraps a Result or returns its Status.
#define AUTOGLM_ASSIGN_OR_RETURN(lhs, expr) AUTOGLM_ASSIGN_OR_RETURN_(AUTOGLM_CONCAT(result_, __LINE__), lhs, expr)
#define AUTOGLM_ASSIGN_OR_RETURN_(tmp, lhs, expr) \
  auto tmp = (expr);                              \
  if (!tmp.ok()) return tmp.status();             \
  lhs = std::move(tmp).value()
