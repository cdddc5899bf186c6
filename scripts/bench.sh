#!/usr/bin/env bash
# Run the benchmarks: `bench.sh [ARGUMENT of python -m bench…]`. What they compare with is installed where it can be.
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null

scripts/setup.sh dev bench
scripts/bench-peers.sh
exec "${VENV:-.venv}/bin/python" -m bench "$@"
