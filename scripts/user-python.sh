#!/usr/bin/env bash
# Print two lines: a directory that holds this tree, and an interpreter with the package installed, both of which the
# user named as the first argument can use. Root only. They are the checkout and its own environment where that user may
# enter them; else a second environment, and a copy of the tree, made from an interpreter that everybody can run.
set -euo pipefail
cd "$(dirname "$0")/.."
umask 022

user=$1
venv=$(realpath -m "${VENV:-.venv}")

# env: setpriv itself keeps its capabilities until it executes something, so it would start what they cannot
as_them() { (cd / && setpriv --reuid "$user" --regid "$(id -g "$user")" --init-groups env "$@" 2>/dev/null); }

all_readable() { # by that user: every file of the tree's own
  local found
  found=$(as_them find "$PWD" \( -path "$PWD/build" -o -name .git -o -name '.venv*' -o -name __pycache__ \
    -o -name .hypothesis -o -name '.*_cache' \) -prune -o ! -readable -print -quit) && [ -z "$found" ]
}

stage() { # a directory of root's, kept from run to run, with a fresh copy of the tree
  local directory
  directory=$(cat build/stage-place 2>/dev/null || true)
  if [ ! -O "${directory:-/nonexistent}" ]; then
    directory=$(mktemp -d /var/tmp/alcove-tests.XXXXXX)
    echo "$directory" >build/stage-place
  fi
  rm -rf "$directory/tree"
  mkdir "$directory/tree"
  tar --exclude=./.git --exclude=./build --exclude='./.venv*' --exclude=.hypothesis -cf - . | tar -C "$directory/tree" -xf - --no-same-owner
  chmod -R a+rX "$directory"
  echo "$directory"
}

mkdir -p build
exec 9>build/user-python.lock
flock -w 900 9
place=$PWD/build
tree=$PWD
if ! all_readable; then
  place=$(stage)
  tree=$place/tree
fi
if as_them "$venv/bin/python" -c 'import alcove, pytest' && [ "$tree" = "$PWD" ]; then
  echo "$tree"
  echo "$venv/bin/python"
  exit
fi
base=$(scripts/python.sh "$user")
VENV=$place/user-venv PYTHON=$base scripts/setup.sh test >&2 9>&-
if ! as_them "$place/user-venv/bin/python" -c 'import alcove, pytest'; then
  echo "user $user cannot run $place/user-venv/bin/python" >&2
  exit 1
fi
echo "$tree"
echo "$place/user-venv/bin/python"
