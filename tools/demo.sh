#!/usr/bin/env bash
# Compresses the embedded model to INT8 and INT4 and prints what that changed, from the reports in the artifacts.
set -euo pipefail
cd "$(dirname "$0")/.."
model=models/glm-phone-demo
compress() {  # NAME OPTION...
  echo "autoglm compress $model ${*:2}" >&2
  build/release/autoglm compress $model "${@:2}" -o "build/demo/$1" --overwrite --quiet >/dev/null
}
compress int8 --quantization int8
compress int4 --quantization int4
compress int4+ --quantization int4 --embedding int4 --head int4  # the embedding is half of so small a model
echo "$model: a phone agent of 8.4 M parameters, before and after"
.venv/bin/python tools/demo_table.py build/demo/int8 build/demo/int4 build/demo/int4+
