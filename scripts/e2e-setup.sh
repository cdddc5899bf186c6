#!/usr/bin/env bash
# Install what the end-to-end tests need beyond Python: Debian's packages, as root.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(git btrfs-progs skopeo umoci xfsprogs)
if command -v apt-get >/dev/null; then
  scripts/apt.sh "${packages[@]}"
else
  echo "no apt-get: these must be there already: ${packages[*]}"
fi
