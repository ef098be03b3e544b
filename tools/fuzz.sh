#!/usr/bin/env bash
# Runs every libFuzzer program of build/fuzz: tools/fuzz.sh SECONDS_EACH. Inputs that crash are kept in build/fuzz/found.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=$1 failed=0
tools/build.sh fuzz
mkdir -p build/fuzz/found
for program in build/fuzz/tests/fuzz/*_fuzz; do
  name=$(basename "$program" _fuzz)
  [ "$name" != planted ] || continue
  echo "== $name"
  mkdir -p "build/fuzz/corpus/$name"
  "$program" -max_total_time="$seconds" -timeout=10 -print_final_stats=1 -artifact_prefix="build/fuzz/found/$name-" \
    "build/fuzz/corpus/$name" "tests/fuzz/corpus/$name" || failed=1
done
exit $failed
