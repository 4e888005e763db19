#!/usr/bin/env bash
# All tests, on a real Caffe: sets up what they need, then runs them.
#
#   scripts/test.sh                      everything, about half an hour on 2 cores
#   scripts/test.sh --sanitize           the native layer under sanitizers and valgrind alone
#   scripts/test.sh tests/test_math.py   what pytest is to run; any of its arguments
#   CAFFE_ROOT=/path scripts/test.sh     with your own built checkout of Caffe and your own Python
#
# With CI=true everything is set up anew, in a cache folder of this run's own, and a skipped test
# is a failed one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf 'test: %s\n' "$*" >&2; }

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

# The newest Python here runs the linter and the packages that Caffe's results are compared with.
venv=$work/venv
if ! cmp -s tests/requirements.txt "$venv/requirements.txt"; then
  say "installing ruff, mypy, PyTorch, Keras and TensorFlow into $venv"
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r tests/requirements.txt
  cp tests/requirements.txt "$venv/requirements.txt"
fi
"$venv/bin/ruff" check .
"$venv/bin/mypy"
# The stubs say of the modules for Python 2.7 what is true of them.
MYPYPATH=python_layer PYTHONPATH=python_layer "$venv/bin/python" -m mypy.stubtest \
  l1_loss l1_loss_plugin

# What builds and installs the package inside the sandbox: the last versions for Python 3.7.
if [ ! -d "$work/wheels" ]; then
  say "fetching pip, setuptools and protobuf for the tests of the package"
  rm -rf "$work/wheels.partial"
  "$venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --platform any -d "$work/wheels.partial" \
    pip==24.0 setuptools==68.0.0 wheel==0.42.0 protobuf==3.20.3
  mv "$work/wheels.partial" "$work/wheels"
fi

# The last numpy for Python 2.7, which most installed pycaffes still run.
if [ ! -d "$work/python27" ]; then
  say "fetching numpy for Python 2.7"
  rm -rf "$work/python27.partial" && mkdir "$work/python27.partial"
  "$venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --python-version 27 --implementation cp --abi cp27mu --platform manylinux1_x86_64 \
    -d "$work/python27.partial" numpy==1.16.6
  (cd "$work/python27.partial" && unzip -q ./*.whl && rm ./*.whl)
  mv "$work/python27.partial" "$work/python27"
fi

# A CMake of today, which refuses what Caffe's CMakeLists.txt asks for.
if [ ! -d "$work/cmake" ]; then
  say "fetching CMake 4"
  rm -rf "$work/cmake.partial" && mkdir "$work/cmake.partial"
  "$venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 \
    -d "$work/cmake.partial" cmake==4.0.3
  (cd "$work/cmake.partial" && unzip -q ./*.whl && rm ./*.whl)
  mv "$work/cmake.partial" "$work/cmake"
fi

# The headers that Caffe's own GPU headers include and a bare CUDA compiler lacks.
if [ -x /usr/local/cuda/bin/nvcc ] && [ ! -d "$work/cuda_include" ]; then
  say "fetching the headers of cuBLAS and cuRAND"
  rm -rf "$work/cuda.partial" && mkdir "$work/cuda.partial"
  suffix=
  case $(/usr/local/cuda/bin/nvcc --version) in *"release 12."*) suffix=-cu12 ;; esac
  "$venv/bin/pip" download --quiet --disable-pip-version-check --no-deps \
    -d "$work/cuda.partial" "nvidia-cublas$suffix" "nvidia-curand$suffix"
  for wheel in "$work"/cuda.partial/*.whl; do
    unzip -q -j -o "$wheel" '*/include/*' -d "$work/cuda.partial/include"
  done
  mv "$work/cuda.partial/include" "$work/cuda_include"
  rm -rf "$work/cuda.partial"
fi

"$venv/bin/python" scripts/demo_stereo.py --fetch

if [ tests/parity_reference.py -nt "$work/parity.npz" ]; then
  say "computing the losses and gradients of PyTorch, Keras and TensorFlow"
  "$venv/bin/python" tests/parity_reference.py "$work/parity.npz"
fi

run=(scripts/sandbox.sh run)
if [ -n "${CAFFE_ROOT-}" ]; then
  run=(env PATH="$CAFFE_ROOT/build/tools:$PATH"
    PYTHONPATH="$CAFFE_ROOT/python${PYTHONPATH:+:$PYTHONPATH}")
  for module in caffe numpy google.protobuf pytest hypothesis scipy matplotlib tqdm; do
    "${run[@]}" python3 -c "import $module" 2>/dev/null || {
      say "your python3 has no $module; fix: install it there (caffe: make pycaffe in CAFFE_ROOT)," \
        "or leave CAFFE_ROOT unset"
      exit 1
    }
  done
  "${run[@]}" sh -c 'command -v caffe' >/dev/null || {
    say "$CAFFE_ROOT/build/tools has no caffe; fix: make tools there, or leave CAFFE_ROOT unset"
    exit 1
  }
fi
# Each file of tests in one process, as many at once as there are cores; with -n 0 all in one.
at_once=()
if "${run[@]}" python3 -c 'import xdist' 2>/dev/null; then
  at_once=(-n "$(nproc)" --dist loadfile)
fi
"${run[@]}" python3 -m pytest -p no:cacheprovider "${at_once[@]}" "$@"
