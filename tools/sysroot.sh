#!/usr/bin/env bash
# Libraries of another architecture, to compile and run its programs on this one: build/sysroot-ARCH, from the Debian
# release that runs here. Packages are unpacked there and nowhere else; no root is needed. Does nothing where it is there
# already. (Ubuntu keeps other architectures elsewhere than its own, which apt's settings do not name.)
#
#   tools/sysroot.sh arm64
set -euo pipefail
cd "$(dirname "$0")/.."
arch=$1
root=$PWD/build/sysroot-$arch
list=requirements/debian-sysroot.txt
if [ "$(. /etc/os-release && echo "$ID")" != debian ]; then
  echo "sysroot: only Debian's packages are known to this script" >&2
  exit 1
fi
mkdir -p build
exec 9>"$root.lock"
flock 9  # two targets at once fetch one after the other
want=$(sha256sum <"$list")
[ "$(cat "$root/.stamp" 2>/dev/null)" != "$want" ] || exit 0

rm -rf "$root" "$root.apt"
mkdir -p "$root.apt"/{state/lists/partial,cache/archives/partial}
: >"$root.apt/status"  # nothing is installed: apt fetches all that the packages depend on
apt=(apt-get -qq -o "APT::Architecture=$arch" -o "APT::Architectures=$arch" -o "Dir::State=$root.apt/state"
     -o "Dir::State::status=$root.apt/status" -o "Dir::Cache=$root.apt/cache" -o APT::Install-Recommends=false
     -o "APT::Sandbox::User=$(id -un)")
echo "sysroot: fetching packages of $arch" >&2
"${apt[@]}" update
mapfile -t packages < <(sed 's/#.*//' "$list" | grep .)
"${apt[@]}" install -y --download-only "${packages[@]}" >&2
mkdir -p "$root"
for package in "$root.apt"/cache/archives/*.deb; do dpkg-deb -x "$package" "$root"; done
# Links to /lib/... mean the sysroot's.
find "$root" -lname '/*' -print0 | while IFS= read -r -d '' link; do
  ln -sfrn "$root$(readlink "$link")" "$link"
done
rm -rf "$root.apt"
echo "$want" >"$root/.stamp"
