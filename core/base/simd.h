#pragma once
/// AUTOGLM_CLONES compiles a function for several generations of x86 and picks the best when the program starts; its
/// inner loops are written so that compilers vectorize them. Elsewhere it means nothing.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__)
#define AUTOGLM_CLONES __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#else
#define AUTOGLM_CLONES
#endif

namespace autoglm {

/// Rounds |x| < 2^22 to the nearest integer, ties to even, by the float addition itself: one add and one subtract that
/// every vector unit has, where a call of nearbyint would not vectorize.
inline float round_to_even(float x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: its last bit has the weight one
  return (x + kMagic) - kMagic;
}

}  // namespace autoglm
