#!/usr/bin/env bash
# The L1 loss on real data, by every route, in a real Caffe: one table and one picture.
#
#   scripts/demo.sh                   everything: about 8 minutes on 2 cores, the first time
#   scripts/demo.sh --quick           stock Caffe and the Python layer only
#   scripts/demo.sh --picture FILE    everything, and the picture goes to FILE too
#   CAFFE_ROOT=/path scripts/demo.sh  with a copy of your own checkout, and your own Python
#
# On a fresh Debian machine it sets up what it needs.
set -euo pipefail
here=$PWD
die() { printf 'demo: %s\n' "$*" >&2; exit 2; }
cd "$(dirname "${BASH_SOURCE[0]}")/.."

picture= options=()
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' scripts/demo.sh; exit ;;
    --quick) options=(--quick) ;;
    --picture)
      picture=$(cd "$here" && realpath -m -- "${2-}" 2>/dev/null) || picture=
      [ -n "$picture" ] && [ -d "${picture%/*}/" ] && [ ! -d "$picture" ] ||
        die "--picture '${2-}': no file can be written there; fix: name another"
      shift ;;
    *) die "unknown option '$1'; use --quick, --picture FILE, or nothing" ;;
  esac
  shift
done

# Runs the demo, by this command.
demo() {
  "$@" python3 scripts/demo.py "${options[@]}"
  [ -z "$picture" ] || cp build/demo/engel.png "$picture"
  exit
}

if [ -n "${CAFFE_ROOT-}" ]; then
  proto=$CAFFE_ROOT/src/caffe/proto/caffe.proto
  [ -f "$proto" ] || die "$proto is missing; fix: set CAFFE_ROOT to a source checkout of Caffe"
  export CAFFE_L1_WORK=${CAFFE_L1_WORK:-${XDG_CACHE_HOME:-$HOME/.cache}/caffe-l1-loss/work}
  demo env
fi
# A pycaffe of the user's own takes the place of the sandbox, where nothing is to be built.
if [ ${#options[@]} != 0 ] && python3 -c 'import caffe; caffe.Net' 2>/dev/null; then
  demo env
fi
scripts/host_packages.sh $(scripts/sandbox.sh packages)
demo scripts/sandbox.sh run
