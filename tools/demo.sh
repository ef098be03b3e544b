#!/usr/bin/env bash
# Compresses the embedded model to INT8 and INT4 and prints what that changed, from the reports in the artifacts.
set -euo pipefail
cd "$(dirname "$0")/.."
model=models/glm-phone-demo
# A copy with every 32nd task, so that all of them are asked in seconds and every column answers the same ones.
source=build/demo/source
rm -rf $source
mkdir -p build/demo
cp -r $model $source
awk 'NR % 32 == 0' $model/tasks/eval.jsonl >$source/tasks/eval.jsonl
compress() {  # NAME OPTION...
  echo "autoglm compress $source ${*:2}" >&2
  build/release/autoglm compress $source "${@:2}" --verify full -o "build/demo/$1" --overwrite --quiet >/dev/null
}
compress int8 --quantization int8
compress int4 --quantization int4
compress int4+ --quantization int4 --embedding int4 --head int4  # the embedding is half of so small a model
echo "$model: a phone agent of 8.4 M parameters, before and after"
.venv/bin/python tools/demo_table.py build/demo/int8 build/demo/int4 build/demo/int4+
