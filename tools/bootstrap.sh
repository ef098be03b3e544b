#!/usr/bin/env bash
# Sets up what a target needs; does nothing, in well under a second, where that is there already.
#
#   tools/bootstrap.sh [build] [lint] [fuzz] [aarch64] [env:NAME]...
#
#   build, lint, ...    the Debian packages of requirements/debian-*.txt; build also makes .venv from core.txt
#   env:NAME            a Python environment of its own, .venvs/NAME, from requirements/NAME.txt
#
# Where pip takes its wheels from is pip's own business (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS, pip.conf).
# The CPU build of torch is enough and much smaller than the CUDA build: pip prefers it where an index offers it.
set -euo pipefail
cd "$(dirname "$0")/.."
readonly min_cmake=3.25 min_python='(3, 11)'

say() { echo "bootstrap: $*" >&2; }
fail() { say "$@"; exit 1; }

# Of each line (a name, or a|b) the first name that apt knows here (the last one where apt knows none).
choose_packages() {
  local line name
  for line in "$@"; do
    for name in ${line//|/ }; do
      [ "$name" = "$line" ] || ! apt-cache show "$name" >/dev/null 2>&1 || break
    done
    echo "$name"
  done
}

# The lines of a package list whose choice is not installed.
missing_packages() {
  local installed line
  installed=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p')
  for line in $(sed 's/#.*//' "$1"); do
    grep -qxF -- "$(choose_packages "$line")" <<<"$installed" || echo "$line"
  done
}

ensure_packages() {
  local missing root=()
  if ! command -v dpkg-query >/dev/null; then
    say "this is not Debian or Ubuntu; the packages of requirements/debian-*.txt are taken to be there"
    return
  fi
  missing=$(for group in "$@"; do missing_packages "requirements/debian-$group.txt"; done)
  [ -n "$missing" ] || return 0

  if [ "$(id -u)" != 0 ]; then
    if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
      root=(sudo)
    else
      fail "Debian packages are missing. Run this as root, then again what you ran:
  apt-get update && apt-get install -y --no-install-recommends $(choose_packages $missing | tr '\n' ' ')"
    fi
  fi
  local apt=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300)
  [ -z "$(dpkg --audit)" ] || "${root[@]}" dpkg --configure -a  # an earlier install was interrupted
  "${apt[@]}" update -qq
  mapfile -t missing < <(choose_packages $missing)
  say "installing ${missing[*]}"
  "${apt[@]}" install -y -qq --no-install-recommends "${missing[@]}" >&2
}

find_python() {
  local python
  for python in python3.11 python3.12 python3.13 python3.14 python3; do
    if "$python" -c "import ensurepip, sys, venv; sys.exit(sys.version_info < $min_python)" 2>/dev/null; then
      command -v "$python"
      return
    fi
  done
  fail "no Python of version ${min_python//[(), ]/ } or later with venv was found"
}

# ensure_environment FOLDER REQUIREMENTS...: pinned packages in FOLDER. The stamp is written last; an environment that an
# interrupted run left unfinished is made anew.
ensure_environment() {
  local folder=$1 want
  shift
  want=$(cat "$@" | sha256sum)
  [ -x "$folder/bin/python" ] && [ "$(cat "$folder/.stamp" 2>/dev/null)" = "$want" ] && return
  if [ -e "$folder/.unfinished" ] || [ ! -x "$folder/bin/python" ]; then
    rm -rf "$folder"
    mkdir -p "$folder"
    touch "$folder/.unfinished"
    "$(find_python)" -m venv "$folder"
  fi
  touch "$folder/.unfinished"
  rm -f "$folder/.stamp"
  say "installing the packages of $* into $folder"
  "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "${@/#/--requirement=}" >&2
  "$folder/bin/python" -m pip check >/dev/null || fail "$* contradict one another: see $folder/bin/python -m pip check"
  echo "$want" >"$folder/.stamp"
  rm "$folder/.unfinished"
}

is_cmake_new() {
  local version
  version=$(cmake --version 2>/dev/null | sed -n 's/^cmake version \([0-9.]*\).*/\1/p')
  [ -n "$version" ] && [ "$(printf '%s\n' $min_cmake "$version" | sort -V | head -1)" = $min_cmake ]
}

groups=() environments=()
for argument in "${@:-build}"; do
  case $argument in
    build | lint | fuzz | aarch64) groups+=("$argument") ;;
    env:*) [ -f "requirements/${argument#env:}.txt" ] || fail "no requirements/${argument#env:}.txt"
           environments+=("${argument#env:}") ;;
    *) fail "unknown argument '$argument': build, lint, fuzz, aarch64 or env:NAME" ;;
  esac
done

mkdir -p build
exec 9>build/.bootstrap.lock
flock 9  # two targets at once set up one after the other

[ ${#groups[@]} = 0 ] || ensure_packages "${groups[@]}"
if [[ " ${groups[*]} " == *" build "* || " ${groups[*]} " == *" lint "* ]]; then
  requirements=(requirements/core.txt)
  PATH=${PATH//"$PWD/.venv/bin:"/} is_cmake_new || requirements+=(requirements/cmake.txt)
  ensure_environment .venv "${requirements[@]}"
fi
for name in "${environments[@]}"; do
  ensure_environment ".venvs/$name" "requirements/$name.txt"
done
