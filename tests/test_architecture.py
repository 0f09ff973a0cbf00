"""The house's rules, where a machine can check them: one-way imports, small files, documented operators."""

import ast
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from htc_fast import ops
from htc_fast.ops import _backend

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "htc_fast"
# What a part may import besides itself and the leaves, which import nothing.
LEAVES = {"errors", "cli", "parts"}
MAY = {
    "ops": {"_build"},
    "models": {"ops"},
    "integrations": {"ops"},
    "data": {"ops", "models", "instances"},
    "runtime": {"ops", "models", "prediction", "processor"},
    "evaluation": {"ops", "models", "data", "prediction", "instances"},
    "training": {"ops", "models", "data", "evaluation", "files", "processor"},
    "profiling": {"ops", "models", "data", "runtime", "training", "processor", "detector"},
}
SOURCES = sorted(path for path in PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The parts of htc_fast that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" if node.module == "htc_fast" else node.module or ""
                     for alias in node.names]  # fmt: skip
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("htc_fast.")}
    return found


@pytest.mark.parametrize("part", MAY)
def test_nothing_imports_upwards(part):
    for path in (PACKAGE / part).rglob("*.py"):
        assert imported(path) <= MAY[part] | LEAVES | {part}, path.relative_to(ROOT)


def test_imports_are_seen():
    assert {"ops", "models"} <= imported(PACKAGE / "models" / "htc.py")


def test_an_operator_brings_no_detector():
    code = (
        "import sys, htc_fast.ops; print(*[m for m in sys.modules if m.startswith('htc_fast.')], 'timm' in sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "htc_fast.models" not in loaded and loaded.endswith("False\n")


def test_kernels_know_no_torch():
    files = [path for folder in ("cpu", "cuda") for path in (ROOT / "csrc" / folder).iterdir()]
    assert len(files) > 10
    assert not [path.name for path in files if re.search(r"#include [<\"](torch|ATen|c10)", path.read_text())]
    assert not [path.name for path in files if "<<<" in path.read_text() and path.name != "launch.cuh"]


def test_files_are_small_enough_to_hold():
    code = [
        *SOURCES,
        *(ROOT / "csrc").rglob("*.*"),
        *(ROOT / "tests").rglob("*.py"),
        *(ROOT / "benchmarks").glob("*.py"),
    ]
    assert not [str(path) for path in code if path.suffix != ".so" and len(path.read_text().splitlines()) > 310]


@pytest.mark.parametrize("name", sorted(set(ops.__all__) & set(_backend.available)))
def test_operators_are_documented(name):
    text = inspect.getdoc(getattr(ops, name))
    assert all(word in text for word in ("returns", "raises", "source", "[")), text


def test_nothing_is_left_to_do():
    for path in SOURCES:
        assert not re.search(r"NotImplementedError|TODO|FIXME|XXX|/work/|/tmp/", path.read_text()), path.name


@pytest.mark.skipif(shutil.which("ruff") is None, reason="ruff is not installed: pip install -e '.[dev]'")
def test_lint():
    done = subprocess.run(["ruff", "check", "."], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout
