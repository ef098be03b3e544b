#!/usr/bin/env bash
# Loads everything that is written with the software it is for, all families and task prompts, and writes what was shown, failures
# too, into the table of docs/FORMATS.md.
set -uo pipefail
cd "$(dirname "$0")/.."
export AUTOGLM_TASKS=200
cells=build/cells.json
rm -f $cells
failed=0
.venv/bin/python -m pytest -q tests/clients/test_*.py --cells $cells || failed=1
.venvs/gptqmodel/bin/python -m pytest -q tests/clients/gptqmodel --cells $cells || failed=1
.venvs/vllm/bin/python -m pytest -q tests/clients/vllm --cells $cells || failed=1
.venv/bin/python tests/clients/compatibility.py $cells || failed=1
exit $failed
