#!/usr/bin/env bash
# Wheels for each CPython at hand into dist/, with CUDA kernels for all architectures where there is an nvcc, and +cpu ones.
#   PYTHONS="python3.12"  instead of all that are found      VARIANTS="cpu"  instead of both
#   HTC_FAST_TORCH=/path/to/torch  whose headers are built against; without it those of the torch that `python` imports
set -euo pipefail
cd "$(dirname "$0")/.."

torch_folder() { python -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])'; }

# A name on the PATH that runs and is that version, or the newest one that pyenv has.
find_python() {
  local candidate
  for candidate in "python$1" $(ls -d "$HOME/.pyenv/versions/$1".*/bin/python 2> /dev/null | sort -rV); do
    if [[ "$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null)" == "$1" ]]; then
      echo "$candidate"
      return
    fi
  done
  echo "make wheel: no Python $1 here, so no wheel for it" >&2
}

missing=""
for tool in auditwheel patchelf torch-abi-audit; do command -v "$tool" > /dev/null || missing+=" $tool"; done
if [[ -n "$missing" ]]; then  # which comes after minutes of building
  echo "make wheel: wheels are looked at with$missing, not found here: pip install -e '.[wheel]' (Python 3.11)" >&2
  exit 2
fi
if [[ -z "${HTC_FAST_TORCH:-}" ]] && ! HTC_FAST_TORCH="$(torch_folder 2> /dev/null)"; then
  echo "make wheel: no PyTorch headers, and python imports no torch: install it, or name its folder in HTC_FAST_TORCH" >&2
  exit 2
fi
export HTC_FAST_TORCH
pythons="${PYTHONS:-$(for version in 3.10 3.11 3.12 3.13 3.14; do find_python "$version"; done)}"
variants="${VARIANTS:-cuda cpu}"
if [[ -z "${VARIANTS:-}" ]] && ! { command -v nvcc || ls "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc"; } > /dev/null 2>&1; then
  echo "make wheel: no nvcc here, so wheels without CUDA kernels alone" >&2
  variants=cpu
fi
if [[ -z "$pythons" ]]; then
  echo "make wheel: no CPython from 3.10 to 3.14 here: name one, as in PYTHONS=python3.12 make wheel" >&2
  exit 2
fi
for variant in $variants; do
  if [[ "$variant" != cpu && "$variant" != cuda ]]; then
    echo "make wheel: VARIANTS are cuda and cpu, got $variant" >&2
    exit 2
  fi
  for python in $pythons; do
    rm -rf build/wheel build/lib.* build/bdist.*  # setuptools would keep what the package no longer has
    if [[ "$variant" == cpu ]]; then export HTC_FAST_CUDA=0; else export HTC_FAST_CUDA=1 TORCH_CUDA_ARCH_LIST=all; fi
    "$python" -m pip wheel -q --no-deps --wheel-dir build/wheel .
    scripts/wheels_repair.sh build/wheel/repaired build/wheel/*.whl
    mkdir -p dist
    ls -lh build/wheel/repaired/*.whl
    mv build/wheel/repaired/*.whl dist/
  done
done
echo "in dist/"
