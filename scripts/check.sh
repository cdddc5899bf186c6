#!/usr/bin/env bash
# Lint, types, style. Every part runs, then the names of those that failed are told.
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null

scripts/setup.sh dev
bin=$(realpath -m "${VENV:-.venv}")/bin
failed=()

part() {
  local name=$1
  shift
  echo "== check: $name"
  "$@" || failed+=("$name")
}

types() { # the tests too: an annotation that lies there misleads as well
  local directory with_python=()
  for directory in src bench examples tests tools scripts; do
    [ -z "$(find "$directory" -name '*.py' -print -quit 2>/dev/null)" ] || with_python+=("$directory")
  done
  "$bin/mypy" "${with_python[@]}"
}

analysed() { # gcc's analyser walks every path of the launcher; a finding is an error
  if ! cc -fanalyzer -fsyntax-only -x c - <<<'int x;' 2>/dev/null; then
    echo "not run: $(cc --version | head -1) has no -fanalyzer"
    return
  fi
  scripts/native-variant.sh analysed -Dc_args=-fanalyzer >/dev/null
}

checked_by() { # an optional program of the machine's: told when it is not there
  if command -v "$1" >/dev/null; then "$@"; else echo "not run: $1 is not installed"; fi
}

part ruff "$bin/ruff" check --quiet --output-format=concise .
part format "$bin/ruff" format --check --output-format=concise .
part mypy types
part analyser analysed
part cppcheck checked_by cppcheck --quiet --error-exitcode=1 --inline-suppr --enable=warning,portability,performance \
  --suppress=missingIncludeSystem native
part shellcheck checked_by shellcheck scripts/*.sh .ci/run
part tree "$bin/python" scripts/check_tree.py
if [ ${#failed[@]} -gt 0 ]; then
  echo "check failed: ${failed[*]}"
  exit 1
fi
echo "check passed"
