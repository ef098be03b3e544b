#pragma once
/// What a fuzz entry asserts, in every build.
#include <cstdlib>

inline void require(bool condition) {
  if (!condition) std::abort();
}
