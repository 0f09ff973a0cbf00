#!/usr/bin/env bash
# wheels_repair.sh DIR WHEEL: finds the oldest glibc that the wheel runs on and names it so, leaves torch's libraries to
# torch, and stops where the operators' library uses more of torch than its stable ABI.
set -euo pipefail
folder="$1" wheel="$2"
unpacked="$(mktemp -d)"
trap 'rm -rf "$unpacked"' EXIT
python -m zipfile -e "$wheel" "$unpacked"
torch-abi-audit -v --check torch "$unpacked/htc_fast/libhtc_fast_ops.so"
auditwheel repair --strip --exclude 'libtorch*' --exclude 'libc10*' --wheel-dir "$folder" "$wheel"
