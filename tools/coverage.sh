#!/usr/bin/env bash
# Line coverage per room, from the tests of a build of its own (build/coverage). Fails below 85 % in a room outside apps/.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
export OMP_WAIT_POLICY=passive  # as tools/test.sh: programs that run side by side share few cores
tools/build.sh coverage
find build/coverage -name '*.gcda' -delete
ctest --preset coverage || echo "some tests failed; what they ran still counts" >&2
gcovr --root . --object-directory build/coverage --exclude-throw-branches --exclude '.*_test\.cpp' --exclude tests/ \
  --filter core/ --filter compress/ --filter runtime/ --filter api/ --filter apps/ --filter include/ \
  --gcov-ignore-parse-errors --json-summary build/coverage/coverage.json -j 2 build/coverage
.venv/bin/python tools/coverage_table.py build/coverage/coverage.json --check
