#!/usr/bin/env bash
# The gtests of the L1 loss, and its speed, on this machine's GPU. Nothing is installed.
#
#   ./run.sh [FOLDER]   what it sees goes into FOLDER too, ./results if none is named
#
# It needs an NVIDIA driver, and cuBLAS and cuRAND of any CUDA or of PyTorch's wheels. It exits with
# 0 if all passed, or if there is no GPU and the gtests on the CPU passed; with 1 otherwise.
set -uo pipefail

case ${1-} in -h | --help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit ;; esac
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
results=${1-results}
failed=0
# gtest's parameters 0 and 1 are float and double on the CPU, 2 and 3 on the GPU.
on_cpu='--gtest_filter=*/0.*:*/1.*'
# A death test in a fork would have no CUDA: threadsafe starts the program anew.
on_gpu=('--gtest_filter=*/2.*:*/3.*' --gtest_death_test_style=threadsafe)

say() { printf 'gpu: %s\n' "$*"; }
die() { say "$*"; exit 1; }

# gtests NAME COMMAND...: runs them, with their output in the results under that name.
gtests() {
  local log=$results/${1// /_}.log passed
  if "${@:2}" >"$log" 2>&1 && passed=$(grep -oE 'PASSED  \] [1-9][0-9]* tests?' "$log"); then
    say "$1: ${passed#*\] } passed"
  else
    failed=1
    say "$1: failed: $(grep -m1 -E 'FAILED|Failure|[Ee]rror' "$log" || tail -n1 "$log"); see $log"
  fi
}

# The folders of libraries here, a line for each.
folders() {
  local python folder
  tr : '\n' <<<"$own_path"
  compgen -G '/usr/local/cuda*/lib64'
  ldconfig -p 2>/dev/null | sed -n 's/.* => \(.*\)\/libcu\(blas\|rand\)\.so.*/\1/p'
  for python in $(type -ap python3); do
    "$python" -c 'import sys; print(*sys.path, sep="\n")' | sed 's/$/\/nvidia/' |
      while read -r folder; do compgen -G "$folder/*/lib"; done
  done
}

# library NAME: its files in the first of these folders that has it, the shortest name first.
library() {
  local folder
  while read -r folder; do
    compgen -G "$folder/lib$1.so.[0-9]*" && return
  done < <(folders)
  return 1
}

mkdir -p "$results" || die "$results cannot be made; fix: name another folder"
own_path=${LD_LIBRARY_PATH-}
# What has the names of cuBLAS and cuRAND, and does nothing: the CPU needs no more.
export LD_LIBRARY_PATH=$here/stubs:$own_path
message=$("$here/gtests" --gtest_list_tests 2>&1) || case $message in
  *GLIBC*) die "the C library is too old: ${message##*: }; fix: use a system of 2020 or later" ;;
  *) die "the programs do not start here: ${message##*$'\n'}" ;;
esac
gtests "gtests on the CPU" "$here/gtests" "$on_cpu"

device=$("$here/benchmark" --device)
case $? in
  0) say "$device" ;;
  3) say "$device"; exit "$failed" ;;
  *) die "$device" ;;
esac

links=$(mktemp -d)
trap 'rm -rf "$links"' EXIT
path=$links
for name in cublas curand; do
  file=$(library "$name") ||
    die "no lib$name.so here; fix: pip install nvidia-$name, or set LD_LIBRARY_PATH to its folder"
  file=${file%%$'\n'*}
  say "$name: $file"
  ln -s "$file" "$links/lib$name.so"
  path+=:${file%/*}
done
export LD_LIBRARY_PATH=$path:$own_path

gtests "gtests on the GPU" "$here/gtests" "${on_gpu[@]}"
sanitizer=$(command -v compute-sanitizer || compgen -G '/usr/local/cuda*/bin/compute-sanitizer')
if [ -n "$sanitizer" ]; then
  for tool in memcheck racecheck; do
    gtests "$tool" "${sanitizer%%$'\n'*}" --tool "$tool" --error-exitcode 1 \
      --target-processes application-only "$here/gtests" "${on_gpu[@]}"
  done
else
  say "memcheck and racecheck are left out: no compute-sanitizer here"
fi

pytorch=$results/pytorch.tsv
for python in $(type -ap python3); do
  LD_LIBRARY_PATH=$own_path "$python" "$here/pytorch_l1.py" >"$pytorch" 2>/dev/null && break
done
[ -s "$pytorch" ] || say "PyTorch is left out: no python3 here has one that sees the GPU"
"$here/benchmark" "$results/benchmark.json" "$pytorch" | tee "$results/benchmark.md" || failed=1
say "the results are in $results"
exit "$failed"
