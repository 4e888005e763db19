#!/usr/bin/env bash
# The L1 loss on real data, by every route, in a real Caffe: one table and one picture.
#
#   scripts/demo.sh                   everything: about 8 minutes on 2 cores, the first time
#   scripts/demo.sh --quick           stock Caffe and the Python layer only
#   CAFFE_ROOT=/path scripts/demo.sh  with a copy of your own checkout, and your own Python
#
# On a fresh Debian machine it sets up what it needs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

for argument in "$@"; do
  case $argument in
    -h | --help) sed -n '2,8s/^# \{0,1\}//p' scripts/demo.sh; exit ;;
    --quick) ;;
    *) echo "demo: unknown option '$argument'; use --quick, or nothing" >&2; exit 2 ;;
  esac
done

if [ -n "${CAFFE_ROOT-}" ]; then
  [ -f "$CAFFE_ROOT/src/caffe/proto/caffe.proto" ] || {
    echo "demo: $CAFFE_ROOT/src/caffe/proto/caffe.proto is missing; fix: set CAFFE_ROOT to a" \
      "source checkout of Caffe" >&2
    exit 2
  }
  export CAFFE_L1_WORK=${CAFFE_L1_WORK:-${XDG_CACHE_HOME:-$HOME/.cache}/caffe-l1-loss/work}
  exec python3 scripts/demo.py "$@"
fi
# A pycaffe of the user's own takes the place of the sandbox, where nothing is to be built.
if [ "${1-}" = --quick ] && python3 -c 'import caffe; caffe.Net' 2>/dev/null; then
  exec python3 scripts/demo.py "$@"
fi
scripts/host_packages.sh $(scripts/sandbox.sh packages)
exec scripts/sandbox.sh run python3 scripts/demo.py "$@"
