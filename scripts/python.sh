#!/usr/bin/env bash
# Print an interpreter, 3.11 or newer, that can make virtual environments. PYTHON names one; a user's name as the
# first argument asks for one which that user can run too. Root on Debian or Ubuntu gets the missing package installed.
set -euo pipefail
cd "$(dirname "$0")/.."

for_user=${1:-}
as_them=()
# env: setpriv itself keeps root's rights until it executes something, so it would start what they cannot
[ -z "$for_user" ] || as_them=(setpriv --reuid "$for_user" --regid "$(id -g "$for_user")" --init-groups env)

suits() { # real path of an interpreter that is new enough, or nothing
  local real
  real=$("$1" -c 'import sys; sys.version_info >= (3, 11) and print(getattr(sys, "_base_executable", sys.executable))' \
    2>/dev/null) && [ -n "$real" ] && (cd / && "${as_them[@]}" "$real" -c '' 2>/dev/null) && echo "$real"
}

candidates() {
  [ -z "${PYTHON:-}" ] || echo "$PYTHON"
  local name directory
  for name in python3 python3.14 python3.13 python3.12 python3.11; do
    type -ap "$name" || true
    for directory in /usr/local/bin /usr/bin; do
      [ ! -x "$directory/$name" ] || echo "$directory/$name"
    done
  done
}

can_make_venvs() { "$1" -c 'import venv; from ensurepip import version' 2>/dev/null; }

find_python() {
  local candidate real
  without_venv=
  while read -r candidate; do
    real=$(suits "$candidate") || continue
    if can_make_venvs "$real"; then
      echo "$real"
      return
    fi
    without_venv=${without_venv:-$real}
  done < <(candidates)
  return 1
}

find_python && exit
# What find_python saw is lost in no subshell: it ran in this one.
version=$([ -z "$without_venv" ] || "$without_venv" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
packages=("python${version:-3.11}-venv")
[ -n "$version" ] || packages+=(python3.11)
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  scripts/apt.sh "${packages[@]}" >&2
  find_python && exit
fi
{
  if [ -n "$version" ]; then
    echo "$without_venv cannot make virtual environments: its ensurepip is missing"
  else
    echo "no Python 3.11 or newer found${for_user:+ that user $for_user can run}"
  fi
  echo "install one: apt-get install ${packages[*]} (or name another: make PYTHON=/path/to/python3)"
} >&2
exit 1
