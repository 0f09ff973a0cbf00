#!/bin/bash
# A machine with a GPU, used well: five commands of less than ten minutes each, in this order.
#   scripts/gpu_check.sh call1   correctness: GPU tests, compute-sanitizer beside them, what the benchmarks compare
#   scripts/gpu_check.sh call2   numbers: the detector, kernel by kernel, and the operators; nothing else may run
#   scripts/gpu_check.sh call3   tuning: the tiles of the 3x3 convolution, and ncu where it is installed
#   scripts/gpu_check.sh call4   rivals, Triton's irregular kernels, memory, the tests that are left
#   scripts/gpu_check.sh call5   training: its steps in every mode, and the sample trained to the end
#   OUT=folder     what comes back, six files at most: summary.txt, logs, results, tiles.json, compilers' caches (build/gpu_check/CALL)
#   CACHE=folder   where an earlier call's caches lie, *_cache.tar.xz, so that nothing is compiled twice (build/gpu_cache)
#   PYTHON=python3, DRY=1: every command on tiny sizes without a GPU; LIST=1: names, limits and commands alone
# It needs torch, Triton, pytest and the built libhtc_fast_ops.so (the stable ABI serves any torch from 2.11 on); what is
# missing besides is left out and said. What a killed call had measured is in OUT: it is packed after every step.
cd "$(dirname "$0")/.." || exit 1
PYTHON=${PYTHON:-python3} OUT=${OUT:-build/gpu_check/$1} CACHE=${CACHE:-build/gpu_cache} WORK=${WORK:-build/gpu_work}
[[ $WORK == /* ]] || WORK=$PWD/$WORK
call=$1 failed=0
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 TRITON_CACHE_DIR=$WORK/triton TORCHINDUCTOR_CACHE_DIR=$WORK/inductor
[ -z "$DRY" ] && export TRITON_INTERPRET=0  # whatever a machine with a GPU looks like

# Matrix operators run on Triton and cuDNN, the others on kernels of our own in CUDA and in Triton.
MATRIX="convolution pad_images fold_images max_pool conv3x3_relu mask_flow mask_predict mask_branch semantic_merge winograd tma tiles tf32x3"
DETECTORS="htc cascade_mask mask_rcnn accelerate accelerate_detectron2 accelerate_mmdetection"
pick() {  # pick FOLDER PREFIX all|matrix|other|detectors: the files there of that kind
  local file name kind
  for file in "$1/$2"*.py; do
    name=${file##*/} name=${name%.py} name=${name#"$2"} name=${name%_gpu} kind=other
    [[ " $MATRIX " == *" $name "* ]] && kind=matrix
    [[ " $DETECTORS " == *" $name "* ]] && kind=detectors
    [[ $3 == all || $3 == "$kind" ]] && echo "$file"
  done
}
has() { "$PYTHON" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$1') is None)"; }

pack() {  # everything so far, under its final name at once
  [ -d benchmarks/results ] && find benchmarks/results -newer "$WORK/began" -name '*.json' | tar -czf "$WORK/r" -T - && mv "$WORK/r" "$OUT/results.tar.gz"
  tar -czf "$WORK/l" -C "$WORK" logs && mv "$WORK/l" "$OUT/logs.tar.gz"
  [ -f "$WORK/logs/tiles.json" ] && cp "$WORK/logs/tiles.json" "$OUT"
  return 0
}

step() {  # step NAME SECONDS COMMAND...
  local name=$1 limit=$2 began=$SECONDS code
  shift 2
  if [ -n "$LIST" ]; then printf '%s\t%s\t' "$name" "$limit" && printf '%q ' "$@" && echo; return; fi
  [ -n "$DRY" ] && limit=600  # a rehearsal shows that it runs, on whatever cores there are
  # Interrupted first and killed later: pytest then still says what it had done.
  timeout -s INT -k 10 "$limit" "$@" >"$WORK/logs/$name.log" 2>&1
  code=$?
  [ $code = 5 ] && code=0  # pytest: no test was selected, as where no GPU is
  echo "$name: $([ $code = 0 ] && echo passed || echo "FAILED ($code)") in $((SECONDS - began)) s: $(tail -n 1 "$WORK/logs/$name.log" | cut -c1-150)" | tee -a "$OUT/summary.txt"
  [ $code = 0 ] || failed=1
  pack
}

said() { [ -n "$LIST" ] || echo "$*" | tee -a "$OUT/summary.txt"; }

sanitizers() {  # beside the tests, one after the other; a machine that forbids them is no failure of ours
  local tool found code filter kernels=3htc4cuda
  if [ -n "$DRY" ]; then
    "${small[@]}" >"$WORK/logs/small.log" 2>&1 && echo "what the sanitizers watch: passed" || echo "what the sanitizers watch: FAILED: $(tail -n 1 "$WORK/logs/small.log")"
    return
  fi
  found=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | head -n 1)
  if [ -z "$found" ]; then echo "compute-sanitizer is not here: $* were not run"; return; fi
  filter=--kernel-regex
  "$found" --help 2>&1 | grep -q -- --kernel-name && filter=--kernel-name
  for tool in "$@"; do
    # Without torch's cache every tensor is an allocation of its own, whose ends memcheck watches.
    PYTORCH_NO_CUDA_MEMORY_CACHING=$([ "$tool" = memcheck ] && echo 1 || echo 0) timeout -k 5 130 \
      "$found" --tool "$tool" $filter "kns=$kernels" --error-exitcode 9 "${small[@]}" >"$WORK/logs/$tool.log" 2>&1
    code=$?
    if [ $code = 0 ]; then echo "$tool: passed"
    elif [ $code = 9 ]; then echo "$tool: FAILED: $(grep -m 1 'ERROR SUMMARY\|RACECHECK SUMMARY' "$WORK/logs/$tool.log")"
    else echo "$tool: could not run here ($code): $(tail -n 1 "$WORK/logs/$tool.log" | cut -c1-150)"; fi
  done
}

tests=("$PYTHON" -m pytest -v -p no:cacheprovider --continue-on-collection-errors -m gpu)
bench=("$PYTHON" -m pytest --benchmark-only -q -p no:cacheprovider)
small=("$PYTHON" -m tests.ops.small)
detector=("$PYTHON" -m benchmarks.kernels --trace "$WORK/logs")
dry=()
if [ -n "$DRY" ]; then dry=(--dry); detector+=(--tiny --device cpu); bench+=(--tiny --device cpu); small+=(--device cpu); else bench+=(--quick); fi
[ -z "$DRY" ] && has xdist && tests+=(-n 14 --dist worksteal)
# A host that waits for a kernel hears no signal: a thread ends its process.
if has pytest_timeout; then tests+=(--timeout 60 --timeout-method thread); else tests+=(-o faulthandler_timeout=60); fi

call1() {
  local agree=("$PYTHON" -m pytest -q -p no:cacheprovider --quick --no-store benchmarks)
  if [ -n "$DRY" ]; then agree+=(--tiny --device cpu --benchmark-disable -k refine); elif has xdist; then agree+=(-n 14 --dist worksteal); fi
  step info 30 "$PYTHON" -m htc_fast.info
  [ -z "$LIST" ] && sanitizers memcheck racecheck synccheck >"$WORK/sanitizers.txt" 2>&1 &
  step cuda_operators 75 "${tests[@]}" -k "cuda and not triton" $(pick tests/ops test_ other)
  step runtime 75 "${tests[@]}" tests/inference tests/models tests/training
  step matrix_operators 110 "${tests[@]}" $(pick tests/ops test_ matrix)
  step triton_operators 70 "${tests[@]}" -k "not (cuda and not triton)" $(pick tests/ops test_ other)
  step benchmarks_agree 90 "${agree[@]}"  # whatever they compare; beside one another nothing is timed
  step detector 75 "${detector[@]}"
  if [ -z "$LIST" ]; then
    timeout 60 tail --pid=$! -f /dev/null || said "compute-sanitizer was not done in time"
    said "$(cat "$WORK/sanitizers.txt")"
    grep -q FAILED "$WORK/sanitizers.txt" && failed=1
  fi
}

call2() {
  step detector 100 "${detector[@]}"
  step cuda_times 200 "${bench[@]}" $(pick benchmarks bench_ other)
  step matrix_times 180 "${bench[@]}" $(pick benchmarks bench_ matrix)
}

watch() {  # watch NAME SECONDS KERNELS COMMAND...: ncu's first look at one of them; a rehearsal runs the command alone
  local name=ncu_$1 limit=$2 kernels=$3
  shift 3
  if [ -n "$DRY" ]; then step "$name" "$limit" "$@"; return; fi
  step "$name" "$limit" ncu --clock-control none --set full -c 1 -k "regex:$kernels" "$@"
}

call3() {
  local processes=14 kernel
  [ -n "$DRY" ] && processes=2
  step tune 430 "$PYTHON" scripts/gpu_tune.py --out "$WORK/logs" --processes $processes --seconds 330 "${dry[@]}"
  if [ -z "$LIST$DRY" ] && ! command -v ncu >/dev/null; then
    said "ncu was not run: it is not here"
    return
  fi
  for kernel in roi_align_forward nms_order nms_chain radix_pass propose_collect detection_walk; do
    watch "$kernel" 15 "$kernel" "${small[@]}"
  done
  watch convolution 20 "product_kernel|tma_kernel" "${bench[@]}" benchmarks/bench_conv3x3_relu.py
  watch merge 20 "merge_(boxes_)?kernel" "${bench[@]}" benchmarks/bench_semantic_merge.py
}

call4() {
  step rivals 180 "${bench[@]}" $(pick benchmarks bench_ detectors)
  # In the interpreter, where a rehearsal runs them, RoIAlign's would take minutes.
  local interpreted=0 kernels="roi_align or (padded and not soft)"
  [ -n "$DRY" ] && interpreted=1 kernels="padded and not soft"
  step triton_times 110 env HTC_FAST_BACKEND=triton TRITON_INTERPRET=$interpreted "${bench[@]}" --no-store $(pick benchmarks bench_ other) -k "$kernels"
  step memory 60 "$PYTHON" -m benchmarks.buckets $([ -n "$DRY" ] && echo --help || echo --device cuda)
  step other_tests 180 "${tests[@]}" tests --ignore=tests/ops --ignore=tests/inference --ignore=tests/models --ignore=tests/training
}

call5() {
  local steps=("$PYTHON" -m benchmarks.training) sample=("$PYTHON" -m benchmarks.trained "the sample" --)
  if [ -n "$DRY" ]; then
    steps+=(--tiny --device cpu) sample=("${sample[@]:0:4}" --no-store -- --iterations 1 --device cpu --no-pretrained)
  else
    sample+=(--graphs)
  fi
  step training 360 "${steps[@]}"
  step sample 180 "${sample[@]}"
}

case $call in call1 | call2 | call3 | call4 | call5) ;; *) sed -n '2,/^[^#]/{/^#/p}' "$0" | cut -c3-; exit 2 ;; esac
if [ -z "$LIST" ]; then
  if [ -z "$DRY" ] && ! "$PYTHON" -c "import torch, sys; sys.exit(not torch.cuda.is_available())"; then
    echo "gpu_check: torch sees no GPU here; DRY=1 rehearses without one"
    exit 1
  fi
  rm -rf "$WORK/logs" && mkdir -p "$OUT" "$WORK/logs" && OUT=$(cd "$OUT" && pwd)
  touch "$WORK/began"
  : >"$OUT/summary.txt"
  for compiler in triton inductor; do
    mkdir -p "$WORK/$compiler"
    [ -f "$CACHE/${compiler}_cache.tar.xz" ] && tar -xf "$CACHE/${compiler}_cache.tar.xz" -C "$WORK/$compiler"
  done
  for module in pytest xdist pytest_timeout pytest_benchmark triton torchvision timm pycocotools; do
    has $module || said "not installed: $module"
  done
fi
$call
[ -n "$LIST" ] && exit 0
for compiler in triton inductor; do tar -C "$WORK/$compiler" -cf - . | xz -T0 -2 >"$OUT/${compiler}_cache.tar.xz"; done
pack
said "$call took $SECONDS s"
exit $failed
