#!/usr/bin/env bash
# A Debian 11 root with a stock Caffe and its source, made once and kept in the cache folder.
#
#   scripts/sandbox.sh                 make the sandbox, if it is not there yet
#   scripts/sandbox.sh run COMMAND...  run a command in it, with this repository bound in
#   scripts/sandbox.sh bare            make a Debian 12 with nothing in it, for a test
#   scripts/sandbox.sh packages        print the Debian packages that making it needs
#   scripts/sandbox.sh path            print the folder of the root
#   scripts/sandbox.sh clean           remove the sandbox and everything built in it
#   CAFFE_L1_MIRROR=URL scripts/sandbox.sh    from this mirror of Debian, or of Debian's archive of
#                                             old releases, instead of the one that apt uses
#
# Debian 11 is the newest Debian that ships Caffe. The root is read-only to the commands; what
# they may write is this repository, /tmp and $CAFFE_L1_WORK (also in the cache folder).
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/caffe-l1-loss
work=${CAFFE_L1_WORK:-$cache/work}

packages=(
  # stock Caffe, untouched
  caffe python3-caffe libcaffe-dev
  # what building Caffe needs (without OpenCV, LevelDB and LMDB)
  build-essential cmake libboost-filesystem-dev libboost-python-dev libboost-regex-dev
  libboost-system-dev libboost-thread-dev libgflags-dev libgoogle-glog-dev libhdf5-dev
  libopenblas-dev libprotobuf-dev protobuf-compiler python3-dev
  # what the tests and the demos need
  git python2.7 python3-hypothesis python3-matplotlib python3-protobuf python3-pytest
  python3-pytest-xdist python3-scipy python3-six python3-tqdm strace valgrind
)
key=$(printf '%s\n' "${packages[@]}" "layout 2" | sha256sum | cut -c1-12)
root=$cache/root-$key

say() { printf 'sandbox: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# What Debian signs with, and signed with once: newer machines count Debian 11 to the latter in time.
keyrings=(/usr/share/keyrings/debian-archive-{keyring,removed-keys}.gpg)

# The mirror of Debian that is named, else the system's own, whichever way its sources are written.
mirror() {
  if [ -n "${CAFFE_L1_MIRROR-}" ]; then printf '%s\n' "$CAFFE_L1_MIRROR"; return; fi
  apt-get indextargets --format '$(REPO_URI) $(LABEL)' 'Created-By: Packages' 2>/dev/null |
    awk '$2 == "Debian" { print $1; exit }'
}

# What the host has to have; an ordinary user also needs what maps user ids.
host_packages() {
  local user=; [ "$(id -u)" = 0 ] || user=uidmap
  echo mmdebstrap bubblewrap debian-archive-keyring $user
}

# The switch of the kernel, on Ubuntu from 23.10 on AppArmor's, that keeps users from bubblewrap.
user_namespaces() {
  local apparmor=kernel/apparmor_restrict_unprivileged_userns
  if [ -e "/proc/sys/$apparmor" ]; then echo "${apparmor/\//.}=0"; else
    echo kernel.unprivileged_userns_clone=1
  fi
}

need_tools() {
  local tools="mmdebstrap bwrap" tool
  [ "$(id -u)" = 0 ] || tools+=" newuidmap"
  for tool in $tools; do
    command -v "$tool" >/dev/null ||
      die "$tool is missing; fix: scripts/host_packages.sh $(host_packages)"
  done
  bwrap --ro-bind / / --dev /dev true 2>/dev/null ||
    die "bubblewrap is not allowed to make namespaces here; fix: $(
      [ "$(id -u)" = 0 ] && echo 'run outside of this container, or with --privileged' ||
      echo "sudo sysctl -w $(user_namespaces), or run as root")"
}

# The keys that are there, as a source for apt names them.
signed_by() {
  local found=() file
  for file in "${keyrings[@]}"; do [ ! -f "$file" ] || found+=("$file"); done
  [ ${#found[@]} != 0 ] || die "the keys of Debian are missing; fix: scripts/host_packages.sh $(
    host_packages)"
  (IFS=,; printf '[signed-by=%s]\n' "${found[*]}")
}

# need_debian_11 URI: one line where the mirror has it not, or no longer, or cannot be asked.
need_debian_11() {
  local folder said release
  folder=$(mktemp -d)
  said=$(/usr/lib/apt/apt-helper download-file "$1/dists/bullseye/InRelease" "$folder/it" 2>&1) ||
    true
  release=$(cat "$folder/it" 2>/dev/null) || true
  rm -rf "$folder"
  case $release in *$'\nCodename: bullseye\n'*) return ;; esac
  if [ -z "$release" ] && [[ $said != *" 404 "* && $said != *"File not found"* ]]; then
    said=$(sed -n 's/^E: \(Failed to fetch [^ ]* *\)\?//p' <<<"$said" | head -n1)
    die "$1 cannot be reached: $said; fix: look at the network, or set CAFFE_L1_MIRROR to another" \
      "mirror"
  fi
  die "$1 has no Debian 11 (bullseye), which mirrors drop in time; fix: set CAFFE_L1_MIRROR to a" \
    "mirror that has it, as those of Debian's archive of old releases do"
}

make_root() {
  [ -d "$root" ] && return
  need_tools
  local uri signed_by partial=$root.partial log=$cache/sandbox.log
  uri=$(mirror)
  uri=${uri%/}
  [ -n "$uri" ] || die "apt knows no mirror of Debian; fix: on Debian run apt-get update as root," \
    "elsewhere set CAFFE_L1_MIRROR to the URL of one"
  signed_by=$(signed_by) || exit
  need_debian_11 "$uri"
  mkdir -p "$cache"
  exec 9>>"$cache/sandbox.lock"  # appended to: it may be a link to somebody else's file
  flock -n 9 || { say "another run is making the sandbox, waiting for it"; flock 9; }
  [ -d "$root" ] && return
  rm -rf "$partial"
  mkdir "$partial"
  rm -f "$log"
  say "making a Debian 11 root with Caffe: ${#packages[@]} packages and what they need"
  say "about 3 minutes and 1.7 GB, once, in $root (log: $log)"
  local started=$SECONDS
  # It is not given the lock: dash, which it uses, knows no file descriptor above 9.
  printf '%s %s %s bullseye main\n' deb "$signed_by" "$uri" deb-src "$signed_by" "$uri" |
    mmdebstrap --variant=minbase --include="${packages[*]}" \
      --aptopt='Acquire::Check-Valid-Until "false"' \
      --customize-hook='chroot "$1" sh -ec "cd /usr/src; apt-get update; apt-get source caffe"' \
      --customize-hook='chroot "$1" sh -ec "cd /usr/src; ln -s caffe-*/ caffe; rm -f caffe_*"' \
      --customize-hook='mkdir "$1/usr/local/cuda"' \
      bullseye - - 9>&- 2> >(tee -a "$log" | progress "$started") |
    tar -x -C "$partial" --exclude='./dev/*' --no-same-owner 2>>"$log" ||
    { rm -rf "$partial"; die "making the root failed: $(grep -m1 '^E:' "$log" || tail -n1 "$log")"; }
  mv "$partial" "$root"
  say "done in $((SECONDS - started)) s: $(du -sh "$root" | cut -f1) in $root"
  exec 9>&-
}

# The steps of mmdebstrap that take long, with the seconds since the start in front.
progress() {
  local line step
  while IFS= read -r line; do
    case $line in
      "I: downloading"* | "I: installing"* | "I: creating"*) step=${line#I: } ;;
      *"apt-get source"*) step="fetching the source of Caffe..." ;;
      *) continue ;;
    esac
    say "$(printf '%4d s  %s' $((SECONDS - $1)) "$step")"
  done
}

# A machine that nothing was installed on.
make_bare() {
  local bare=$work/debian12
  [ ! -d "$bare" ] || return 0
  need_tools
  say "making a bare Debian 12 in $bare"
  rm -rf "$bare.partial"
  mkdir -p "$bare.partial"
  printf 'deb %s %s bookworm main\n' "$(signed_by)" "$(mirror)" |
    mmdebstrap --quiet --variant=minbase bookworm - - |
    tar -x -C "$bare.partial" --exclude='./dev/*' --no-same-owner
  mv "$bare.partial" "$bare"
}

run_in_root() {
  make_root
  need_tools
  mkdir -p "$work"
  local args=() entry name
  for entry in "$root"/{bin,etc,lib,lib32,lib64,libx32,sbin,usr}; do
    name=/${entry##*/}
    [ -e "$entry" ] || continue
    if [ -L "$entry" ]; then
      args+=(--symlink "$(readlink "$entry")" "$name")
    else
      args+=(--ro-bind "$entry" "$name")
    fi
  done
  args+=(--dev /dev --proc /proc --tmpfs /tmp --dir /tmp/home)
  # The CUDA toolkit of this machine, where there is one, compiles the .cu files.
  args+=(--ro-bind-try /usr/local/cuda /usr/local/cuda --ro-bind-try /etc/resolv.conf{,})
  args+=(--bind "$repo" "$repo" --bind "$work" "$work" --chdir "$repo")
  local variables=(PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/tmp/home LANG=C.UTF-8
    CAFFE_ROOT=/usr/src/caffe CAFFE_L1_WORK="$work" CAFFE_L1_SANDBOX=1 PYTHONDONTWRITEBYTECODE=1
    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1)
  # Other Pythons to test with, and the newer libraries of this machine, which they need.
  local pyenv=${PYENV_ROOT:-$HOME/.pyenv} libraries=/lib/$(uname -m)-linux-gnu
  if [ -d "$pyenv/versions" ] && [ -d "$libraries" ]; then
    args+=(--ro-bind "$pyenv" "$pyenv" --ro-bind "$libraries" /machine/lib)
    variables+=("PYENV_ROOT=$pyenv")
  fi
  for name in CI TERM COLUMNS GLOG_minloglevel PYTEST_ADDOPTS HYPOTHESIS_PROFILE CAFFE_L1_FUZZ \
    CAFFE_L1_THOROUGH; do
    [ -z "${!name+set}" ] || variables+=("$name=${!name}")
  done
  exec env -i "${variables[@]}" "$(command -v bwrap)" --die-with-parent "${args[@]}" "$@"
}

clean() {
  if [ ! -d "$cache" ]; then say "nothing to remove: $cache is not there"; return; fi
  say "removing $(du -sh "$cache" | cut -f1) in $cache"
  chmod -R u+w "$cache" 2>/dev/null || true
  rm -rf "$cache"
}

case ${1-} in
  "" | make) make_root ;;
  run)
    shift
    [ $# -gt 0 ] || { say "run needs a command; usage: scripts/sandbox.sh run COMMAND..."; exit 2; }
    run_in_root "$@" ;;
  bare) make_bare ;;
  packages) host_packages ;;
  path) printf '%s\n' "$root" ;;
  clean) clean ;;
  -h | --help) sed -n '2,15s/^# \{0,1\}//p' "$0" ;;
  *) say "unknown verb '$1'; use make, run COMMAND..., bare, packages, path or clean"; exit 2 ;;
esac
