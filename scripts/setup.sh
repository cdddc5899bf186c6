#!/usr/bin/env bash
# Make or refresh the virtual environment and install the package into it: `setup.sh [EXTRA…]`, "dev" by default.
# Nothing is done twice: stamps in the environment hold what it was made from. The install is not an editable one,
# because that would rebuild on import and slow the command line down.
set -euo pipefail
cd "$(dirname "$0")/.."
umask 022 # the plain user of the tests reads what root makes here

venv=$(realpath -m "${VENV:-.venv}")
[ $# -gt 0 ] || set -- dev
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore

mkdir -p build
exec 9>"build/setup.lock"
flock -w 900 9 || { echo "another setup has held build/setup.lock for 15 minutes" >&2; exit 1; }

pip() { "$venv/bin/python" -m pip -qq "$@" </dev/null 9>&-; }

digest() { sha256sum | cut -d ' ' -f 1; }

make_venv() {
  local base
  if [ "$(cat "$venv/stamp-place" 2>/dev/null)" = "$venv" ] && "$venv/bin/python" -c 'import pip' 2>/dev/null; then
    return
  fi
  base=$(scripts/python.sh)
  command -v cc >/dev/null || { echo "no C compiler; on Debian and Ubuntu: apt-get install gcc libc6-dev" >&2; exit 1; }
  echo "making $venv with $base"
  rm -rf "$venv" "$build"
  "$base" -m venv "$venv" 9>&-
  echo "$venv" >"$venv/stamp-place"
}

install_requirements() { # one stamp an extra, so that `make bench` and `make test` do not undo each other
  local extra stamp wanted
  for extra in "$@"; do
    stamp=$venv/stamp-requirements-$extra
    wanted=$("$venv/bin/python" scripts/requirements.py "$extra")
    [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || continue
    echo "installing what $extra needs"
    mapfile -t lines <<<"$wanted"
    pip install 'pip>=23.1' "${lines[@]}" # the first with -C
    echo "$wanted" >"$stamp"
  done
}

install_package() {
  local wanted
  wanted=$(find LICENSE README.md meson.build meson_options.txt pyproject.toml scripts/package_files.py native src \
    -name __pycache__ -prune -o -type f ! -name '*.pyc' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | digest)
  [ "$(cat "$venv/stamp-package" 2>/dev/null)" != "$wanted" ] || return 0
  echo "building and installing alcove"
  rm -f "$venv/stamp-package"
  if ! PATH="$venv/bin:$PATH" pip install --no-build-isolation --no-deps --no-index --force-reinstall \
    "-Cbuild-dir=$build" . >"$build.log" 2>&1; then
    cat "$build.log" >&2
    exit 1
  fi
  echo "$wanted" >"$venv/stamp-package"
}

build=$PWD/build/wheel-$(printf %s "$venv" | digest | cut -c 1-8)
make_venv
install_requirements "$@"
install_package
