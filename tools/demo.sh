#!/usr/bin/env bash
# Compresses the embedded model to INT8 and INT4 and prints what that changed, from the reports in the artifacts.
set -euo pipefail
cd "$(dirname "$0")/.."
model=models/glm-phone-demo
for quantization in int8 int4; do
  build/release/autoglm compress $model --quantization $quantization -o build/demo/$quantization --overwrite --quiet
done
echo "$model: a phone agent of 8.4 M parameters, before and after"
.venv/bin/python tools/demo_table.py build/demo/int8 build/demo/int4
