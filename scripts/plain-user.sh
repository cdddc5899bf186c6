#!/usr/bin/env bash
# Make the plain user that the tests run as, once, and print its name. Root only.
set -euo pipefail

user=${ALCOVE_TEST_USER:-alcove-test}
if ! id -u "$user" >/dev/null 2>&1; then
  # another run may have been quicker
  useradd --create-home --shell /bin/bash --comment "Alcove's tests" "$user" >&2 || id -u "$user" >/dev/null
fi
[ "$(id -u "$user")" != 0 ] || { echo "$user is root: name a plain user in ALCOVE_TEST_USER" >&2; exit 1; }
echo "$user"
