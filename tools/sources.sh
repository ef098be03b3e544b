#!/usr/bin/env bash
# Prints the files of the working tree that match, new ones included, deleted and ignored ones not:
# tools/sources.sh PATTERN...
set -euo pipefail
cd "$(dirname "$0")/.."
git ls-files --cached --others --exclude-standard -- "$@" | sort -u | while IFS= read -r file; do
  [ ! -f "$file" ] || printf '%s\n' "$file"
done
