#!/usr/bin/env bash
# Builds and tests the presets named, by default all that must hold:
#   release     everything, optimized
#   asan-core   the rooms without LibTorch under AddressSanitizer and UndefinedBehaviorSanitizer; long mutation loops
#   edge        core and runtime, with no LibTorch to be found
# A preset that fails does not keep the next one from running. The last lines say what each one ran.
set -uo pipefail
cd "$(dirname "$0")/.."

summary=() failed=0
[ $# -gt 0 ] || set -- release asan-core edge
for preset in "$@"; do
  echo "== $preset"
  start=$SECONDS
  log=build/$preset/test.log
  if ! tools/build.sh "$preset"; then
    result="the build failed"
    failed=1
  else
    ctest --preset "$preset" 2>&1 | tee "$log"
    [ "${PIPESTATUS[0]}" = 0 ] || failed=1
    result=$(grep -E '^[0-9]+% tests passed' "$log" || echo "no test ran")
  fi
  summary+=("$(printf '%-10s %s, %d s' "$preset" "$result" $((SECONDS - start)))")
done

echo "== summary"
printf '%s\n' "${summary[@]}"
exit $failed
