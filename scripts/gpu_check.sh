#!/bin/bash
# One command on a machine with a GPU: tests of every operator and backend, compute-sanitizer, benchmarks. Under ten minutes.
# Binaries are built beforehand (the stable ABI serves any torch >= 2.11); htc_fast/_build may be missing or another
# Python's. Without libhtc_fast_ops.so the Triton kernels are tested and timed alone.
#   OUT=folder PYTHON=python3 scripts/gpu_check.sh      logs and results land in $OUT (build/gpu_check)
# Results also land in benchmarks/results/<device>, from where python -m benchmarks.tables puts them into README.md and docs.
# DRY=1 rehearses it on a machine without a GPU.
cd "$(dirname "$0")/.." || exit 1
PYTHON=${PYTHON:-python3}
OUT=${OUT:-build/gpu_check}
mkdir -p "$OUT" && OUT=$(cd "$OUT" && pwd)
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
failed=0

told() {  # told NAME CODE SECONDS
  echo "$1: $([ "$2" = 0 ] && echo passed || echo "FAILED ($2)") in $3 s: $(tail -n 1 "$OUT/$1.log" | cut -c1-150)"
  [ "$2" = 0 ] || failed=1
}

step() {  # step NAME SECONDS COMMAND...
  local name=$1 limit=$2 began=$SECONDS
  shift 2
  timeout "$limit" "$@" >"$OUT/$name.log" 2>&1
  told "$name" $? $((SECONDS - began))
}

$PYTHON - <<'PY' | tee "$OUT/machine.txt"
import importlib.util, os, sys
import torch
import htc_fast.ops
from htc_fast.ops import _backend, _native
gpu = torch.cuda.is_available()
print("torch", torch.__version__, "python", sys.version.split()[0], torch.cuda.get_device_name() if gpu else "no GPU")
print("native library:", _native.problem() or "loaded", "; CUDA kernels of", ", ".join(sorted(_native.cuda_operators)) or "none")
missing = [name for name in ("pytest", "pytest_benchmark", "triton", "torchvision", "timm", "pycocotools") if importlib.util.find_spec(name) is None]
print("not installed:", ", ".join(missing) or "nothing", flush=True)
sys.exit(0 if gpu or os.environ.get("DRY") else "gpu_check: torch sees no GPU here; DRY=1 rehearses without one")
PY
[ "${PIPESTATUS[0]}" = 0 ] || exit 1

pytest=("$PYTHON" -m pytest -q -p no:cacheprovider --continue-on-collection-errors)
shards=6
[ -n "$DRY" ] && shards=1
if $PYTHON -c "import pytest" 2>/dev/null; then
  # Side by side: they wait for Triton's compiler, and nothing is timed.
  began=$SECONDS
  declare -A running
  for ((shard = 0; shard < shards; shard++)); do
    HTC_FAST_SHARD=$shard/$shards timeout 140 "${pytest[@]}" -m gpu tests/ops tests/inference/test_gpu.py \
      >"$OUT/tests_$shard.log" 2>&1 &
    running[tests_$shard]=$!
  done
  for ((shard = 0; shard < shards; shard++)); do
    wait "${running[tests_$shard]}"
    told "tests_$shard" $? $((SECONDS - began))
  done
else
  echo "pytest is not installed: the tests were not run (pip install pytest)"
  failed=1
fi

sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | head -n 1)
if [ -n "$sanitizer" ] && [ -z "$DRY" ]; then
  # Without torch's cache every tensor is an allocation of its own, whose ends memcheck watches.
  step memcheck 60 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$sanitizer" --tool memcheck --error-exitcode 9 $PYTHON -m tests.ops.small
  step racecheck 60 "$sanitizer" --tool racecheck --error-exitcode 9 $PYTHON -m tests.ops.small
else
  echo "compute-sanitizer is not here: memcheck and racecheck were not run"
fi

bench=("$PYTHON" -m pytest benchmarks --benchmark-only --quick -q -p no:cacheprovider)
if [ -n "$DRY" ]; then
  step benchmarks 110 "${bench[@]}" --tiny --device cpu
else
  # Interrupted and not killed: what was measured is in benchmarks/results, and the log says what was not.
  step benchmarks 270 timeout -s INT 260 "${bench[@]}"
  step bucket_memory 50 $PYTHON -m benchmarks.buckets --device cuda
  step tables 20 $PYTHON -m benchmarks.tables
  device=$($PYTHON -c "from htc_fast.profiling.limits import device_name; print(device_name())")
  cp -r "benchmarks/results/$device" README.md docs "$OUT"
fi
cat "$OUT"/benchmarks.log
exit $failed
