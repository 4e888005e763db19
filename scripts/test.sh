#!/usr/bin/env bash
# All tests, on a real Caffe: sets up what they need, then runs them.
#
#   scripts/test.sh                      everything, about 20 minutes on 2 cores
#   scripts/test.sh --sanitize           the native layer under sanitizers and valgrind alone
#   scripts/test.sh tests/test_math.py   what pytest is to run; any of its arguments
#   CAFFE_ROOT=/path scripts/test.sh     with your own built checkout of Caffe and your own Python
#
# With CI=true everything is set up anew, in a cache folder of this run's own, and a skipped test
# is a failed one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf 'test: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

case ${1-} in
  --sanitize) shift; set -- tests/test_memory_safety.py "$@" ;;
  -h | --help) sed -n '2,10s/^# \{0,1\}//p' scripts/test.sh; exit ;;
esac

if [ "${CI-}" = true ]; then
  XDG_CACHE_HOME=$(mktemp -d)
  export XDG_CACHE_HOME
  trap 'rm -rf "$XDG_CACHE_HOME"' EXIT
fi
work=${XDG_CACHE_HOME:-$HOME/.cache}/caffe-l1-loss/work
mkdir -p "$work"
export CAFFE_L1_WORK=$work

scripts/host_packages.sh $(scripts/sandbox.sh packages) python3 python3-venv unzip

# The sandbox waits for the network most of the time, in which the rest can be set up.
[ -n "${CAFFE_ROOT-}" ] || scripts/sandbox.sh &

# The newest Python here runs the linter and the packages that Caffe's results are compared with.
venv=$work/venv
if ! cmp -s tests/requirements.txt "$venv/requirements.txt"; then
  say "installing ruff, mypy, PyTorch, Keras, TensorFlow and optax into $venv"
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r tests/requirements.txt
  cp tests/requirements.txt "$venv/requirements.txt"
fi
"$venv/bin/ruff" check .
"$venv/bin/mypy"
# What the oldest Pythons that are supported lack is not used.
"$venv/bin/vermin" --quiet --no-tips --eval-annotations --violations -t=3.6- scripts
"$venv/bin/vermin" --quiet --no-tips --eval-annotations --violations -t=2.7- -t=3.5- \
  python_layer/*.py scripts/*.py scripts/caffe_l1/__init__.py scripts/caffe_l1/__main__.py
# The stubs say of the modules for Python 2.7 what is true of them.
MYPYPATH=python_layer PYTHONPATH=python_layer "$venv/bin/python" -m mypy.stubtest \
  l1_loss l1_loss_plugin

# fetch FOLDER WHAT FILES PIP_ARGUMENT...: wheels, once; FILES of them are taken out, if any.
fetch() {
  local folder=$work/$1 wheel
  [ ! -d "$folder" ] || return 0
  say "fetching $2"
  rm -rf "$folder.partial"
  "$venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    -d "$folder.partial" "${@:4}"
  for wheel in "$folder.partial"/*.whl; do
    case $3 in
      "") continue ;;
      "*") unzip -q "$wheel" -d "$folder.partial" ;;
      *) unzip -q -j -o "$wheel" "$3" -d "$folder.partial" ;;
    esac
    rm "$wheel"
  done
  mv "$folder.partial" "$folder"
}
# What builds and installs the package inside the sandbox: the last versions for Python 3.7.
fetch wheels "pip, setuptools and protobuf for the tests of the package" "" \
  --platform any pip==24.0 setuptools==68.0.0 wheel==0.42.0 protobuf==3.20.3
# The last numpy for Python 2.7, which most installed pycaffes still run.
fetch python27 "numpy for Python 2.7" "*" numpy==1.16.6 \
  --python-version 27 --implementation cp --abi cp27mu --platform manylinux1_x86_64
# The last protobuf for Python 3.6; it does for newer ones too.
fetch python36 "protobuf for Python 3.6" "*" --platform any protobuf==3.19.6
# A CMake of today, which refuses what Caffe's CMakeLists.txt asks for.
fetch cmake "CMake 4" "*" cmake==4.0.3 \
  --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64
# The headers that Caffe's own GPU headers include and a bare CUDA compiler lacks.
if [ -x /usr/local/cuda/bin/nvcc ]; then
  suffix=
  case $(/usr/local/cuda/bin/nvcc --version) in *"release 12."*) suffix=-cu12 ;; esac
  fetch cuda_include "the headers of cuBLAS and cuRAND" "*/include/*" \
    "nvidia-cublas$suffix" "nvidia-curand$suffix"
  # Where the bundle for a machine with a GPU is unpacked and run.
  scripts/sandbox.sh bare &
fi

"$venv/bin/python" scripts/demo_stereo.py --fetch

if [ tests/parity_reference.py -nt "$work/parity.npz" ]; then
  say "computing the losses and gradients of PyTorch, Keras, TensorFlow and optax"
  "$venv/bin/python" tests/parity_reference.py "$work/parity.npz"
fi

wait
run=(scripts/sandbox.sh run)
if [ -n "${CAFFE_ROOT-}" ]; then
  run=(env PATH="$CAFFE_ROOT/build/tools:$PATH"
    PYTHONPATH="$CAFFE_ROOT/python${PYTHONPATH:+:$PYTHONPATH}")
  for module in caffe numpy google.protobuf pytest hypothesis scipy matplotlib tqdm; do
    "${run[@]}" python3 -c "import $module" 2>/dev/null ||
      die "your python3 has no $module; fix: install it there (caffe: make pycaffe in CAFFE_ROOT)," \
        "or leave CAFFE_ROOT unset"
  done
  "${run[@]}" sh -c 'command -v caffe' >/dev/null ||
    die "$CAFFE_ROOT/build/tools has no caffe; fix: make tools there, or leave CAFFE_ROOT unset"
fi
# Each file of tests in one process, as many at once as there are cores; with -n 0 all in one.
at_once=()
if "${run[@]}" python3 -c 'import xdist' 2>/dev/null; then
  at_once=(-n "$(nproc)" --dist loadfile)
fi
"${run[@]}" python3 -m pytest -p no:cacheprovider "${at_once[@]}" "$@"
