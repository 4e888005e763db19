#!/usr/bin/env bash
# Installs those of the named Debian packages that are missing; where it may not, says what to run.
set -euo pipefail

fail() {
  echo "packages: $1; fix: $2" >&2
  exit 1
}

missing=
for package in "$@"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
    missing+=" $package"
done
[ -n "$missing" ] || exit 0
command -v apt-get >/dev/null || fail "missing:$missing" "install what provides them without apt-get"
sudo=$([ "$(id -u)" = 0 ] || echo sudo)
[ -z "$sudo" ] || sudo -n true 2>/dev/null ||
  fail "missing:$missing" "sudo apt-get update && sudo apt-get install -y$missing"
echo "packages: installing$missing" >&2
install="apt-get install -y --no-install-recommends$missing"
log=$({ $sudo apt-get update && $sudo env DEBIAN_FRONTEND=noninteractive $install; } 2>&1) ||
  fail "$(grep -m1 '^E:' <<<"$log" || tail -n1 <<<"$log")" "install$missing"
