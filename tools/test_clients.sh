#!/usr/bin/env bash
# Loads everything that is written with the software it is for, all families and task prompts, two sets of clients side by side, and
# writes what was shown, failures too, into the table of docs/FORMATS.md.
set -uo pipefail
cd "$(dirname "$0")/.."
trap 'trap - TERM; kill 0' INT TERM  # the two sets too
export AUTOGLM_TASKS=200 OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive  # else threads of both sets wait for one another, spinning
rm -rf build/cells
mkdir -p build/cells
tests=tests/clients

run() { # NAME PYTHON TEST…
  local name=$1 python=$2
  shift 2
  echo "running $name: build/cells/$name.log"
  "$python" -m pytest -q "$@" --cells "build/cells/$name.json" >"build/cells/$name.log" 2>&1
  local status=$?
  echo "== $name"
  cat "build/cells/$name.log"
  return $status
}

one() {
  local failed=0
  run onnx .venv/bin/python $tests/test_onnx.py $tests/test_tensorrt.py || failed=1
  run gptqmodel .venvs/gptqmodel/bin/python $tests/gptqmodel || failed=1
  run vllm .venvs/vllm/bin/python $tests/vllm || failed=1
  return $failed
}
other() {
  run others .venv/bin/python $(ls $tests/test_*.py | grep -v -e test_onnx -e test_tensorrt)
}

one & first=$!
other & second=$!
failed=0
wait $first || failed=1
wait $second || failed=1
for name in onnx gptqmodel vllm others; do
  [ -s build/cells/$name.json ] && continue
  echo "$name did not get to its end: docs/FORMATS.md stays as it is"
  exit 1
done
.venv/bin/python $tests/compatibility.py build/cells/*.json || failed=1
exit $failed
