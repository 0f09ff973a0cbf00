#!/bin/bash
# One command on a machine with a GPU: tests of every operator and backend, compute-sanitizer, benchmarks. Under ten minutes.
# Binaries are built beforehand (the stable ABI serves any torch >= 2.11); htc_fast/_build may be missing.
#   OUT=folder PYTHON=python3 scripts/gpu_check.sh      results land in $OUT (default benchmarks/results/gpu_check)
cd "$(dirname "$0")/.." || exit 1
PYTHON=${PYTHON:-python3}
OUT=${OUT:-benchmarks/results/gpu_check}
mkdir -p "$OUT"
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
failed=0

step() {  # step NAME SECONDS COMMAND...
  local name=$1 limit=$2
  shift 2
  local began=$SECONDS
  timeout "$limit" "$@" >"$OUT/$name.log" 2>&1
  local code=$?
  echo "$name: $([ $code = 0 ] && echo passed || echo "FAILED ($code)") in $((SECONDS - began)) s: $(tail -n 1 "$OUT/$name.log" | cut -c1-150)"
  [ $code = 0 ] || failed=1
}

$PYTHON - <<'PY' | tee "$OUT/machine.txt"
import torch
from htc_fast.ops import _backend, _native
import htc_fast.ops
print(torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU")
print("native library:", "loaded" if _native.loaded() else "missing", "; CUDA kernels of", sorted(_native.cuda_operators))
PY

step tests 150 $PYTHON -m pytest -q -p no:cacheprovider tests/gpu
step matrix 100 $PYTHON -m pytest -q -p no:cacheprovider tests/ops/test_conv3x3_relu.py tests/ops/test_mask_flow.py \
  tests/ops/test_mask_predict.py tests/ops/test_semantic_merge.py tests/ops/test_mask_branch.py
if command -v compute-sanitizer >/dev/null; then
  step memcheck 70 compute-sanitizer --tool memcheck --error-exitcode 9 $PYTHON tests/gpu/small.py
  step racecheck 70 compute-sanitizer --tool racecheck --error-exitcode 9 $PYTHON tests/gpu/small.py
else
  echo "compute-sanitizer is not here: memcheck and racecheck were not run"
fi
step benchmarks 110 $PYTHON benchmarks/gpu_ops.py --out "$OUT/gpu_ops.json"
step matrix_benchmarks 90 $PYTHON -m benchmarks.gpu_matrix --out "$OUT/gpu_matrix.json"
step runtime_benchmarks 130 $PYTHON -m benchmarks.gpu_runtime --out "$OUT/gpu_runtime.json"
step bucket_memory 90 $PYTHON scripts/buckets.py --device cuda
cat "$OUT/benchmarks.log" "$OUT/matrix_benchmarks.log" "$OUT/runtime_benchmarks.log"
exit $failed
