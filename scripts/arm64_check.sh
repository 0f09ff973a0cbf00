#!/bin/bash
# The operators' C++ kernels on arm64, without such a machine: cross-compiled, their tests run in qemu. Slow, and no
# word about speed.
#   scripts/arm64_check.sh [pytest's arguments]   default: a few hundred cases (the last lines)
#   WORK=folder  what is downloaded and built stays there (build/arm64), 4 GB
# It needs Debian or Ubuntu as root, for arm64's Python 3.11: apt-get install qemu-user-static g++-aarch64-linux-gnu, and
# dpkg --add-architecture arm64 && apt-get update; here python3.11 with pip, cmake, ninja and pybind11.
set -e -o pipefail
cd "$(dirname "$0")/.."
WORK=${WORK:-build/arm64}
mkdir -p "$WORK" && WORK=$(cd "$WORK" && pwd)
SITE=$WORK/site ROOT=$WORK/root STUBS=$WORK/stubs

if [ ! -d "$ROOT" ]; then
  mkdir -p "$WORK/debs" "$ROOT"
  (cd "$WORK/debs" && printf '%s:arm64\n' libc6 libstdc++6 libgcc-s1 zlib1g libexpat1 libffi8 libssl3 libbz2-1.0 liblzma5 \
    libsqlite3-0 libuuid1 python3.11-minimal libpython3.11-minimal libpython3.11-stdlib | xargs apt-get download)
  for one in "$WORK"/debs/*.deb; do dpkg -x "$one" "$ROOT"; done
  # What PyTorch's libraries want to read of the processor, and would otherwise end in a segmentation fault: a Neoverse N1.
  midr=sys/devices/system/cpu/cpu0/regs/identification/midr_el1
  mkdir -p "$ROOT/$(dirname $midr)" "$ROOT/proc"
  echo 0x00000000413fd0c1 >"$ROOT/$midr"
  printf '%s\t: %s\n' processor 0 Features 'fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp' \
    'CPU implementer' 0x41 'CPU architecture' 8 'CPU variant' 0x3 'CPU part' 0xd0c 'CPU revision' 1 >"$ROOT/proc/cpuinfo"
fi
if [ ! -d "$SITE" ]; then
  # PyTorch without the libraries of CUDA that it names: nothing here calls them.
  python3 -m pip install --target "$SITE" --platform manylinux_2_28_aarch64 --platform manylinux2014_aarch64 \
    --python-version 3.11 --only-binary=:all: --no-deps torch torchvision numpy typing_extensions sympy mpmath networkx \
    jinja2 MarkupSafe filelock fsspec pytest iniconfig packaging pluggy pygments pillow tabulate pycocotools timm safetensors \
    pyyaml huggingface_hub tqdm scipy hypothesis sortedcontainers
fi
if [ ! -d "$STUBS" ]; then  # in their place, every function returns 0
  mkdir "$STUBS"
  libraries=("$SITE"/torch/lib/*.so "$SITE"/torchvision/*.so)
  nm -D --undefined-only "${libraries[@]}" 2>/dev/null | awk '$1 == "U" || $1 == "w" {print $2}' | sort -u >"$STUBS/wanted"
  for name in $(readelf -d "${libraries[@]}" | sed -n 's/.*NEEDED.*\[\(lib\(cu\|nccl\|nvrtc\|nvshmem\)[^]]*\)\]/\1/p' | sort -u); do
    [ -e "$SITE/torch/lib/$name" ] && continue
    version=$name plain='^$'
    case $name in libnvshmem*) version=NVSHMEM ;; libcudart*) plain='^(__)?(cu|nccl|nvrtc)[A-Za-z0-9_]*$' ;; esac
    {
      printf '.text\nzero: mov x0, #0\nret\n'
      { sed -n "s/@$version\$//p" "$STUBS/wanted"; grep -E "$plain" "$STUBS/wanted" || true; } | sort -u |
        sed 's/.*/.globl &\n.type &, %function\n.set &, zero/'
    } >"$STUBS/stub.s"
    echo "$version { global: *; };" >"$STUBS/map"
    aarch64-linux-gnu-gcc -shared -nostdlib -Wl,-soname,"$name" -Wl,--version-script="$STUBS/map" -o "$STUBS/$name" "$STUBS/stub.s"
  done
fi

rm -rf "$WORK/tree" && mkdir "$WORK/tree"
git ls-files -z htc_fast tests scripts benchmarks pyproject.toml | xargs -0 cp --parents -t "$WORK/tree"
cmake -G Ninja -S . -B "$WORK/build" -DCMAKE_BUILD_TYPE=Release -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
  -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DHTC_TORCH="$SITE/torch" -DHTC_DESTINATION="$WORK/tree/htc_fast" \
  -DPython_EXECUTABLE="$(command -v python3)" -DPython_INCLUDE_DIR="$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')" \
  -DPYTHON_MODULE_EXTENSION=.cpython-311-aarch64-linux-gnu.so -DPYTHON_IS_DEBUG=OFF -DPYTHON_MODULE_DEBUG_POSTFIX= >/dev/null
nice -n 10 cmake --build "$WORK/build" --target install -j "${JOBS:-1}"
cd "$WORK/tree"
# Left out: what takes many minutes here.
[ $# = 0 ] && set -- tests/ops/test_{nms,soft_nms,roi_align,paste_masks,encode,decode,depthwise,winograd}.py \
  -m "not slow and not gpu" -k "cpp or depthwise or (winograd and not portion)"
PYTHONPATH=$SITE:$PWD OMP_NUM_THREADS=1 nice -n 10 qemu-aarch64-static -L "$ROOT" -E LD_LIBRARY_PATH="$STUBS" \
  "$ROOT/usr/bin/python3.11" -m pytest -q -p no:cacheprovider "$@"
