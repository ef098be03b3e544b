#!/usr/bin/env bash
# Builds and tests the presets named, by default all that must hold:
#   release     everything, optimized
#   asan-core   the rooms without LibTorch under AddressSanitizer and UndefinedBehaviorSanitizer; long mutation loops
#   edge        the small program and what is installed beside it, built with no LibTorch to be found (the units' code
#               is that of the release)
# A preset that fails does not keep the next one from running. The last lines say what each one ran, and what it skipped
# and why.
set -uo pipefail
cd "$(dirname "$0")/.."

# Several programs run at once on few cores: a thread that waits must not take the time of one that works.
export OMP_WAIT_POLICY=passive
export PYTEST_ADDOPTS="${PYTEST_ADDOPTS:-} -rs"  # the reasons go into ctest's log

# What the tests of a build folder skipped: a line for each reason.
skipped() {
  awk '
    BEGIN { total["python"] = 0 }
    /^SKIPPED \[[0-9]+\]/ { reason = $0; sub(/^SKIPPED \[[0-9]+\] /, "", reason)
                            add("python", reason, substr($2, 2) + 0) }
    /: Skipped$/ { getline reason; add("C++", reason, 1) }
    function add(kind, reason, count) { total[kind] += count; reasons[kind, reason] += count }
    END {
      for (kind in total) {
        printf "  %d %s test%s skipped\n", total[kind], kind, total[kind] == 1 ? "" : "s"
        for (each in reasons) {
          split(each, part, SUBSEP)
          if (part[1] == kind) printf "    %d: %s\n", reasons[each], part[2]
        }
      }
    }' "build/$1/Testing/Temporary/LastTest.log"
}

summary=() failed=0
[ $# -gt 0 ] || set -- release asan-core edge
for preset in "$@"; do
  echo "== $preset"
  start=$SECONDS skips=
  log=build/$preset/test.log
  if ! tools/build.sh "$preset"; then
    result="the build failed"
    failed=1
  else
    ctest --preset "$preset" 2>&1 | tee "$log"
    [ "${PIPESTATUS[0]}" = 0 ] || failed=1
    result=$(grep -E '^[0-9]+% tests passed' "$log" || echo "no test ran")
    skips=$(skipped "$preset")
  fi
  summary+=("$(printf '%-10s %s, %d s' "$preset" "$result" $((SECONDS - start)))${skips:+$'\n'$skips}")
done

echo "== summary"
printf '%s\n' "${summary[@]}"
exit $failed
