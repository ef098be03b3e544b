#!/usr/bin/env bash
# Configures a preset once and builds it (later configuring is the build's own business): tools/build.sh PRESET [TARGET]...
set -euo pipefail
cd "$(dirname "$0")/.."
preset=$1
shift
mkdir -p build
exec 8>"build/.$preset.lock"
flock 8  # two targets at once build one after the other
[ -f "build/$preset/build.ninja" ] || cmake --preset "$preset" >&2
cmake --build --preset "$preset" ${1:+--target "$@"}
