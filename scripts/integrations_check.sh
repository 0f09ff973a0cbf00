#!/usr/bin/env bash
# Tests of the integrations and of the loggers beside the packages themselves, which cannot share one environment: each
# set has its own, which sees the calling environment's packages, so that torch is there once. Fails where a set's tests
# fail, or where none of a file's tests has passed.
#
#   scripts/integrations_check.sh [SET ...]     sets: onedl mmdet masks loggers; all without arguments
#   OUT=folder                                  where the environments lie and stay: build/integrations
set -euo pipefail
cd "$(dirname "$0")/.."
ROOT="$PWD" OUT="${OUT:-$PWD/build/integrations}" PYTHON="${PYTHON:-$(command -v python3)}"
mkdir -p "$OUT"
"$PYTHON" -c 'import pytest, torch' || { echo "$PYTHON lacks torch or pytest: activate the environment first" >&2; exit 2; }

packages() { # SET -> what pip installs
  case "$1" in
    onedl) sed -n 's/^test-integrations = //p' pyproject.toml | grep -o '"[^"]*"' | tr -d '"' | grep -v htc_fast | xargs ;;
    # mmengine 0.10.7 asks for pkg_resources, which later setuptools lack.
    mmdet) echo "mmdet==3.3.0 mmcv-lite==2.1.0 mmengine==0.10.7 setuptools<81" ;;
    masks) echo "opencv-python-headless regex tokenizers defusedxml pyDeprecate scipy requests pydantic" ;;
    loggers) echo "mlflow-skinny" ;;
    *) echo "no such set: $1; there are onedl, mmdet, masks and loggers" >&2 && return 1 ;;
  esac
}

alone() { # SET -> what pip installs without what it asks for: another OpenCV, and much that is for training
  case "$1" in
    masks) echo "transformers==5.24.0 supervision==0.31.2 ultralytics==8.4.190 rfdetr==1.11.2" ;;
  esac
}

environment() { # SET: makes it, or leaves it as it is if it holds the same packages
  local home="$OUT/$1" wanted site
  wanted="$(packages "$1") $(alone "$1")" || return 1
  [ "$(cat "$home/wanted" 2>/dev/null)" = "$wanted" ] && return 0
  rm -rf "$home" || return 1
  "$PYTHON" -m venv "$home" || return 1
  site="$("$home/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" || return 1
  "$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$site/zz_calling_environment.pth" || return 1
  # shellcheck disable=SC2046  # several packages
  "$home/bin/python" -m pip install -qq --disable-pip-version-check $(packages "$1") || return 1
  # shellcheck disable=SC2046
  [ -z "$(alone "$1")" ] || "$home/bin/python" -m pip install -qq --no-deps $(alone "$1") || return 1
  echo "$wanted" > "$home/wanted"
}

tests() { # SET
  local python="$OUT/$1/bin/python" results="$OUT/$1.xml"
  export PYTHONPATH="$ROOT" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
  if [ "$1" = masks ]; then
    "$python" -m pytest -q -p no:cacheprovider -W ignore --junitxml "$results" \
      tests/integrations/test_{transformers,rfdetr,ultralytics,supervision}.py || return 1
  elif [ "$1" = loggers ]; then
    "$python" -m pytest -q -p no:cacheprovider -W ignore --junitxml "$results" -k file_store \
      tests/training/test_loggers.py || return 1
  else
    "$python" -c 'from htc_fast.integrations import mmcv
mmcv.install()
import mmdet.models' || return 1
    "$python" -m pytest -q -p no:cacheprovider -W ignore --junitxml "$results" -k "mmdet or mmcv" \
      tests/integrations/test_mm*.py tests/test_examples.py || return 1
  fi
  "$python" - "$results" <<'END'
import sys
from collections import Counter
from xml.etree import ElementTree

cases = ElementTree.parse(sys.argv[1]).iter("testcase")
passed = Counter()
for case in cases:
    passed[case.get("classname") or case.get("name")] += not list(case)
none = [name for name, count in passed.items() if not count]
if none or not passed:
    sys.exit(f"none of the tests has passed of: {', '.join(none) or 'all files'}")
END
}

run() { # SET
  environment "$1" && tests "$1"
}

[ $# -gt 0 ] || set -- onedl mmdet masks loggers
declare -A jobs
for name in "$@"; do
  run "$name" > "$OUT/$name.log" 2>&1 &
  jobs[$name]=$!
done
failed=0
for name in "$@"; do
  wait "${jobs[$name]}" && said="passed" || { said="FAILED" && failed=1; }
  echo "== $name: $said"
  if [ "$said" = passed ]; then tail -n 3 "$OUT/$name.log"; else cat "$OUT/$name.log"; fi
done
exit "$failed"
