#!/usr/bin/env bash
# What a reader would object to: formatting, clang-tidy, cyclomatic complexity, repeated code.
#
#   tools/lint.sh [FILE.cpp]...     clang-tidy on these; without arguments on what differs from the upstream branch (or
#   ALL=1 tools/lint.sh             from the last commit); with ALL=1 on everything (a torch file takes a minute)
#
# Formatting, complexity and repetition are always looked at everywhere. Exits with 1 when anything fails.
set -uo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
readonly note_complexity=15 max_complexity=30 max_repeated=2

failed=0
section() { echo "== $*"; }
verdict() { if [ "$1" = 0 ]; then echo "ok"; else echo "FAILED"; failed=1; fi; }

mapfile -t sources < <(tools/sources.sh '*.h' '*.cpp')

section "clang-format, ${#sources[@]} files"
clang-format --dry-run -Werror "${sources[@]}"
verdict $?

section "cyclomatic complexity (functions above $note_complexity; none may exceed $max_complexity)"
lizard --languages cpp --modified -C $note_complexity --warnings_only "${sources[@]}" |
  sed -n 's/^\(.*\): warning: \(.*\) has .* NLOC, \([0-9]*\) CCN.*/\3\t\1\t\2/p' | sort -rn >build/complexity.txt
expand -t 6,60 build/complexity.txt
! awk -v max=$max_complexity '$1 > max { over = 1 } END { exit !over }' build/complexity.txt
verdict $?

section "repeated code (at most $max_repeated % of the lines)"
lizard --languages cpp -Eduplicate "${sources[@]}" 2>/dev/null | sed -n '/^Duplicates$/,$p' >build/repeated.txt
sed '/^[-^=]*$/d; /^Duplicates$/d' build/repeated.txt
awk -v max=$max_repeated '/^Total duplicate rate/ { seen = 1; over = $4 + 0 > max } END { exit !seen || over }' \
  build/repeated.txt
verdict $?

if [ $# -gt 0 ]; then
  files=("$@")
elif [ -n "${ALL:-}" ]; then
  mapfile -t files < <(tools/sources.sh '*.cpp')
else
  base=$(git merge-base HEAD '@{upstream}' 2>/dev/null || git rev-parse HEAD)
  [ "$base" != "$(git rev-parse HEAD)" ] || base=$(git rev-parse -q --verify HEAD~1 || echo HEAD)
  mapfile -t files < <(git diff --name-only --diff-filter=d "$base" -- '*.cpp'
                       git ls-files --others --exclude-standard -- '*.cpp')
fi
section "clang-tidy, ${#files[@]} files"
if [ ${#files[@]} -gt 0 ]; then
  # A build folder of clang's own: its precompiled headers are those that clang-tidy can read.
  [ -f build/tidy/build.ninja ] || cmake --preset tidy >/dev/null
  cmake --build build/tidy --target autoglm_pch >build/pch.txt || { cat build/pch.txt; failed=1; }
  compiled=()
  for file in "${files[@]}"; do
    if grep -qF "/$file\"" build/tidy/compile_commands.json; then compiled+=("$file")
    else echo "not compiled on this machine: $file"; fi
  done
  printf '%s\0' "${compiled[@]}" | xargs -r -0 -P2 -n1 clang-tidy -p build/tidy --quiet 2>&1 |
    grep -vE '^[0-9]+ warnings? (generated|treated as errors?)|^Suppressed |^Use -header-filter' |
    awk '!seen[$0]++'  # a header's finding once, not once per file
  [ "${PIPESTATUS[1]}" = 0 ]
  verdict $?
fi
exit $failed
