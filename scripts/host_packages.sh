#!/usr/bin/env bash
# Installs the Debian packages named, those that are missing; where it may not, says what to run.
set -euo pipefail

missing=()
for package in "$@"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
    missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

command -v apt-get >/dev/null || {
  echo "packages: missing: ${missing[*]}; fix: install what provides them, apt-get is not here" >&2
  exit 1
}
sudo=()
if [ "$(id -u)" != 0 ]; then
  sudo=(sudo)
  sudo -n true 2>/dev/null || {
    echo "packages: missing: ${missing[*]}; fix: sudo apt-get update &&" \
      "sudo apt-get install -y ${missing[*]}" >&2
    exit 1
  }
fi
echo "packages: installing ${missing[*]}" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
{ "${sudo[@]}" apt-get update && "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 || {
  echo "packages: $(grep -m1 '^E:' "$log" || tail -n1 "$log"); fix: install ${missing[*]}" >&2
  exit 1
}
