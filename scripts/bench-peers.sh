#!/usr/bin/env bash
# Install what the benchmarks compare with, each by itself: Debian's packages as root, sandlock from the Python index.
# What cannot be had is told, and left out of the comparison.
set -euo pipefail
cd "$(dirname "$0")/.."

for package in bubblewrap firejail runc crun slirp4netns; do
  program=${package/bubblewrap/bwrap}
  command -v "$program" >/dev/null && continue
  if ! command -v apt-get >/dev/null || ! scripts/apt.sh "$package" 2>/dev/null; then
    echo "not compared: $package (as root on Debian or Ubuntu: apt-get install $package)"
  fi
done

python=$(realpath -m "${VENV:-.venv}")/bin/python
if ! "$python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("sandlock") is None)'; then
  log=$(mktemp)
  if ! "$python" -m pip -qq --disable-pip-version-check install sandlock >"$log" 2>&1 </dev/null; then
    echo "not compared: sandlock ($(grep -m 1 -i error "$log" || echo 'pip install failed'))"
  fi
  rm -f "$log"
fi
