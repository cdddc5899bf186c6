#!/usr/bin/env bash
# Build the launcher as tests want it, apart from the package, and print its path:
# native-variant.sh NAME [MESON OPTION…], as in `native-variant.sh no-seccomp -Doff=seccomp`. Only `-Dtest_build=true`
# builds come out of here, and those install nothing. NATIVE_BUILDS is where they go; NAME decides what is rebuilt.
set -euo pipefail
cd "$(dirname "$0")/.."
umask 022

name=$1
shift
builds=$(realpath -m "${NATIVE_BUILDS:-build/native}")
directory=$builds/$name
mkdir -p "$builds"
exec 9>"$builds/$name.lock"
flock -w 300 9

venv=$(realpath -m "${VENV:-.venv}")
[ ! -d "$venv/bin" ] || PATH=$venv/bin:$PATH
options="-Dtest_build=true -Dnative_only=true $*"
if [ "$(cat "$directory/stamp-options" 2>/dev/null)" != "$PWD $options" ]; then
  rm -rf "$directory"
  meson setup "$directory" -Dtest_build=true -Dnative_only=true "$@" >"$builds/$name.log" 2>&1 9>&- ||
    { cat "$builds/$name.log" >&2; exit 1; }
  echo "$PWD $options" >"$directory/stamp-options"
fi
meson compile -C "$directory" >"$builds/$name.log" 2>&1 </dev/null 9>&- || { cat "$builds/$name.log" >&2; exit 1; }
echo "$directory/native/alcove-warden"
