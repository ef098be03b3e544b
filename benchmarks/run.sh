#!/usr/bin/env bash
# The benchmarks of docs/BENCHMARKS.md. Text is not part of the project: CALIBRATION and HELD_OUT name plain text files
# (by default the demo model's own task files), SCRATCH a folder with 60 GB for the large checkpoints (skipped without);
# QUALITY=1 asks for the table of all methods and peers too, which takes hours.
set -euo pipefail
cd "$(dirname "$0")"
tasks=../models/glm-phone-demo/tasks
python=../.venv/bin/python
echo "== INT4 GPTQ of the demo model beside llm-compressor"
$python gptq_demo.py "${CALIBRATION:-$tasks/train.jsonl}" "${HELD_OUT:-$tasks/eval.jsonl}" --runs "${RUNS:-5}"
if [ -n "${QUALITY:-}" ]; then
  echo "== what every method loses, beside llm-compressor, AutoRound and llama.cpp"
  $python quality.py "${CALIBRATION:-$tasks/train.jsonl}" "${HELD_OUT:-$tasks/eval.jsonl}" --tasks 128
fi
echo "== methods, observers and scopes side by side"
$python methods.py "${CALIBRATION:-$tasks/train.jsonl}" "${HELD_OUT:-$tasks/eval.jsonl}"
echo "== calibration text of different kinds"
$python shift.py "${CALIBRATION:-$tasks/train.jsonl}" "${HELD_OUT:-$tasks/eval.jsonl}"
echo "== INT8 of everything"
$python sizes.py
echo "== the tokenizer beside the tokenizers package"
cmake --build ../build/release --target tokenize_file >/dev/null
$python tokenizer.py
if [ -n "${SCRATCH:-}" ]; then
  echo "== round-to-nearest INT4 in real shapes"
  $python large.py "$SCRATCH" --shape glm-edge-1.5b
  $python large.py "$SCRATCH" --shape glm-4-9b --max-ram 4G --verify fast
  echo "== exports of a real shape"
  $python exports.py "$SCRATCH"
  echo "== the runtime beside llama.cpp and ONNX Runtime"
  cmake -S .. -B ../build/release -DAUTOGLM_BENCHMARKS=ON >/dev/null
  cmake --build ../build/release --target autoglm_kernels_benchmark autoglm-edge
  $python runtime.py "$SCRATCH" --layers 14
  $python runtime.py "$SCRATCH" --runs 32
  $python runtime.py "$SCRATCH" --demo --prompt 256 --runs 128
  batches=(--prompt 64 --runs 24 --batches 1,8,16,32,64 --only 'bf16|f16|int8 int8|q8_0|g32 int8|q4_0')
  $python runtime.py "$SCRATCH" --layers 14 "${batches[@]}"
  $python runtime.py "$SCRATCH" --demo "${batches[@]}"
  echo "== products of INT8 beside what the processor multiplies"
  ../build/release/benchmarks/autoglm_kernels_benchmark --benchmark_filter='PeakVnni|Prefill.*/m:512/'
fi
