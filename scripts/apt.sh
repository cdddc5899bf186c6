#!/usr/bin/env bash
# Install the named Debian packages that are not there yet; quiet unless it fails.
set -euo pipefail

missing=()
for package in "$@"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ]; then
  echo "missing Debian packages: ${missing[*]}; as root: apt-get install ${missing[*]}" >&2
  exit 1
fi
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# One third-party list that cannot be reached must not stop the rest.
apt=(apt-get -o DPkg::Lock::Timeout=300)
"${apt[@]}" update >"$log" 2>&1 </dev/null || true
if ! "${apt[@]}" install -y --no-install-recommends "${missing[@]}" >>"$log" 2>&1 </dev/null; then
  tail -30 "$log" >&2
  echo "apt-get install ${missing[*]} failed" >&2
  exit 1
fi
echo "installed Debian packages: ${missing[*]}"
