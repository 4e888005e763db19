#!/usr/bin/env bash
# The layer's gtests and its benchmark for a machine with a GPU, built on one without.
#
#   scripts/gpu_bundle.sh [-o FOLDER] [--arch 75,80,90]
#
# It makes FOLDER/caffe-l1-gpu.tar.xz. On the other machine:
#
#   tar xf caffe-l1-gpu.tar.xz && caffe-l1-gpu/run.sh
#
# nvcc is needed here; there a driver, cuBLAS and cuRAND, but no Caffe and no compiler. A GPU that
# is newer than the last of --arch runs what was compiled for that one.
set -euo pipefail
here=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf 'gpu_bundle: %s\n' "$*" >&2; }
die() { say "$1"; exit "${2-1}"; }

folder=. arch=75,80,90
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) sed -n '2,11s/^# \{0,1\}//p' scripts/gpu_bundle.sh; exit ;;
    -o) folder=${2-}; shift ;;
    --arch) arch=${2-}; shift ;;
    *) die "unknown option '$1'; use -o FOLDER or --arch 75,80,90" 2 ;;
  esac
  shift || die "the last option needs a value" 2
done
folder=$(cd "$here" && cd -- "$folder" 2>/dev/null && pwd) ||
  die "-o: no such folder; fix: make it" 2

[[ $arch =~ ^[0-9]+(,[0-9]+)*$ ]] || die "--arch takes numbers, as in --arch 75,80,90" 2

cuda=/usr/local/cuda
work=${CAFFE_L1_WORK:-${XDG_CACHE_HOME:-$HOME/.cache}/caffe-l1-loss/work}
[ -x $cuda/bin/nvcc ] ||
  die "$cuda/bin/nvcc is missing; fix: install the CUDA toolkit, or link $cuda to where it is"
known=$($cuda/bin/nvcc --list-gpu-arch | sed s/compute_//)
for number in ${arch//,/ }; do
  grep -qxF "$number" <<<"$known" ||
    die "--arch $number: this nvcc does not compile for it; fix: choose from ${known//$'\n'/ }" 2
done
[ -e $cuda/include/cublas_v2.h ] || [ -e "$work/cuda_include/cublas_v2.h" ] ||
  die "CUDA has no cublas_v2.h; fix: install cuBLAS's and cuRAND's headers, or run scripts/test.sh"

# The sandbox has Caffe's source, and static libraries that are old enough for every machine. It
# sets OMP_NUM_THREADS, which nproc would heed.
run=(env)
if [ -z "${CAFFE_L1_SANDBOX-}" ]; then
  scripts/host_packages.sh $(scripts/sandbox.sh packages)
  run=(scripts/sandbox.sh run)
fi
out=$work/gpu_bundle
packed=caffe-l1-gpu.tar.xz
say "compiling for sm_${arch//,/, sm_}"
rm -rf "$out"
mkdir -p "$out"
"${run[@]}" sh -ec 'cp -r "$CAFFE_ROOT/" "$1/caffe"
  python3 scripts/apply_patch.py apply "$1/caffe"
  make -f scripts/gpu/Makefile -j"$(env -u OMP_NUM_THREADS nproc)" OUT="$1" ARCH="$2"
  XZ_OPT=-9 tar -C "$1" -cJf "$1/$3" caffe-l1-gpu' \
  sh "$out" "${arch//,/ }" $packed >"$out/log" 2>&1 ||
  die "failed: $(grep -m1 -E 'error|\*\*\*' "$out/log" || tail -n1 "$out/log"); see $out/log"
mv "$out/$packed" "$folder"
rm -rf "$out"
say "$folder/$packed: $(stat -c %s "$folder/$packed") bytes"
