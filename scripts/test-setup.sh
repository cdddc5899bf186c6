#!/usr/bin/env bash
# Install the programs that the tests of egress run as clients, where one is missing and this is root with apt-get;
# else say what is missing: its tests are skipped. Only under CI an sshd too, since installing it starts it: asyncssh
# stands in for it.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

programs=(curl:curl git:git node:nodejs npm:npm ssh:openssh-client wget:wget)
[ -z "${CI:-}" ] || programs+=(sshd:openssh-server)
missing=()
for program in "${programs[@]}"; do
  command -v "${program%:*}" >/dev/null || missing+=("${program#*:}")
done
[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "not installed, so tests are skipped: ${missing[*]}"
  exit 0
fi
scripts/apt.sh "${missing[@]}"
