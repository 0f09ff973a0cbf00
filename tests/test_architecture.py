"""The house's rules, where a machine can check them: one-way imports, small files, documented operators."""

import ast
import inspect
import re
import shutil
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import htc_fast
from htc_fast import ops
from htc_fast.ops import _backend
from tests.test_docs import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "htc_fast"
LONGEST = 300  # lines of a file, as CONTRIBUTING.md says
HALL = {"errors", "cores", "device", "ranges"}
# What each room may import besides itself. The hall's modules are rooms of one file; the commands are the top floor.
MAY = {
    "errors": set(),
    "ranges": set(),
    "cores": {"device", "errors"},
    "device": {"errors"},
    "ops": {"_build", *HALL},
    "models": {*HALL, "ops"},
    "criterion": {*HALL, "ops", "models"},
    "data": {*HALL, "ops", "models"},
    "inference": {*HALL, "ops", "models", "data"},
    "detector": {*HALL, "models", "criterion", "inference"},
    "evaluation": {*HALL, "ops", "models", "data", "inference"},
    "pages": {*HALL, "models", "data", "inference", "evaluation"},
    "training": {*HALL, "models", "criterion", "data", "inference", "detector", "evaluation", "pages"},
    "profiling": {*HALL, "models", "data", "inference", "detector", "training"},
    "ablation": {*HALL, "models", "data", "inference", "detector", "evaluation", "training", "profiling"},
    "integrations": {"errors", "ops", "data"},
    "commands": {*HALL, "data", "inference", "detector"},
    "look": {"errors", "commands", "data", "pages"},
    "train": {"commands", "training"},
    "ablate": {"commands", "ablation", "training"},
    "evaluate": {*HALL, "commands", "data", "detector", "evaluation", "pages", "training"},
    "predict": {*HALL, "commands", "data", "detector", "inference"},
    "convert": {*HALL, "commands", "data", "detector", "models"},
    "export": {*HALL, "commands", "detector", "inference"},
    "profile": {*HALL, "commands", "profiling"},
    "info": {*HALL, "commands", "ops", "profiling"},
    "__init__": {"errors"},  # what it hands out besides is imported at first use
}
SOURCES = sorted(path for path in PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """htc_fast.models.htc for htc_fast/models/htc.py; a package is called as its folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in SOURCES}
HOMES = {f"htc_fast.{name}": home for name, home in htc_fast._HOME.items()}
# Who may import by a name that is put together as the program runs, and why.
BY_NAME = {"__init__.py": "lazy", "profiling/__init__.py": "lazy", "ops/_declare.py": "Triton's kernels, at first call"}


def imported(path: Path) -> set[str]:
    """The files of htc_fast that a file imports, anywhere in it, by their names."""
    return imports(path.read_text()) - {name_of(path)}


def imports(source: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import hides what it names: {ast.unparse(node)}"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            # What is no file of its own is a name inside one; the package's own names have their homes.
            found |= {
                HOMES.get(name, name if name in FILES or name == "htc_fast._build" else node.module) for name in inner
            }
    return {name for name in found if name.split(".")[0] == "htc_fast"}


def room_of(name: str) -> str:
    return name.split(".")[1] if "." in name else "__init__"


def test_every_file_is_under_a_rule():
    assert {room_of(name) for name in FILES} == MAY.keys()


@pytest.mark.parametrize("room", MAY)
def test_nothing_imports_upwards(room):
    for name, path in FILES.items():
        if room_of(name) == room:
            # The package itself is its version and what it hands out.
            wrong = {room_of(one) for one in imported(path)} - MAY[room] - {room, "__init__"}
            assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_the_rules_themselves_have_floors():
    assert circle(MAY) == []


def test_no_circles_between_files():
    assert circle({name: imported(path) - {"htc_fast", *packages(name)} for name, path in FILES.items()}) == []


def test_a_circle_is_noticed():
    assert sorted(set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}))) == ["a", "b", "c"]


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Names that import each other in a loop, if any do."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def packages(name: str) -> set[str]:
    """The packages that a module lies in: importing a neighbour by its package's name is no circle."""
    parts = name.split(".")
    return {".".join(parts[:end]) for end in range(1, len(parts))}


def test_no_import_is_hidden():
    hidden = [path for path in SOURCES if re.search(r"import_module|__import__", path.read_text())]
    assert {str(path.relative_to(PACKAGE)) for path in hidden} == BY_NAME.keys()


def test_imports_are_seen():
    assert imports("from htc_fast import create_model, ops") == {"htc_fast.detector", "htc_fast.ops"}
    with pytest.raises(AssertionError, match="relative"):
        imports("from . import load")
    found = imported(PACKAGE / "models" / "htc.py")
    assert {"htc_fast.ops", "htc_fast.models.fpn", "htc_fast.ranges"} <= found
    assert "htc_fast.errors" in imported(PACKAGE / "__init__.py")


def test_loose_modules_stay_few():
    loose = {path.stem for path in PACKAGE.glob("*.py")}
    assert loose - set(COMMANDS) == {*HALL, "__init__", "detector"} and len(COMMANDS) <= 9


def test_an_operator_brings_no_detector():
    code = "import sys, htc_fast.ops; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "htc_fast.ops.nms" in loaded
    # Dynamo takes as long to import as torch itself.
    assert not {"htc_fast.models", "htc_fast.inference", "timm", "torchvision", "triton", "torch._dynamo"} & set(loaded)


def test_kernels_know_no_torch():
    files = [path for folder in ("cpu", "cuda") for path in (ROOT / "csrc" / folder).iterdir()]
    assert len(files) > 10
    assert not [path.name for path in files if re.search(r"#include [<\"](torch|ATen|c10)", path.read_text())]
    assert not [path.name for path in files if "<<<" in path.read_text() and path.name != "launch.cuh"]


def test_files_are_small_enough_to_hold():
    suffixes = {".py", ".cpp", ".h", ".cu", ".cuh", ".sh"}
    folders = ("htc_fast", "csrc", "tests", "benchmarks", "scripts", "examples", "build_backend")
    code = [path for folder in folders for path in (ROOT / folder).rglob("*.*") if path.suffix in suffixes]
    code += [ROOT / "setup.py", ROOT / "docs" / "hooks.py"]
    assert len(code) > 200
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in code}
    assert not {path: lines for path, lines in lengths.items() if lines > LONGEST}


def test_the_limit_is_the_one_that_is_written_down():
    assert f"{LONGEST} lines" in (ROOT / "CONTRIBUTING.md").read_text()


@pytest.mark.parametrize("name", sorted(set(ops.__all__) & set(_backend.available)))
def test_operators_are_documented(name):
    text = inspect.getdoc(getattr(ops, name))
    assert all(word in text for word in ("returns", "raises", "source", "[")), text


def test_nothing_is_left_to_do():
    for path in SOURCES:
        assert not re.search(r"NotImplementedError|TODO|FIXME|XXX", path.read_text()), path.name


def test_no_path_of_a_machine():
    """Absolute paths are what Linux has everywhere, or none."""
    everywhere = {"/dev", "/proc", "/sys"}
    for path in SOURCES:
        assert set(re.findall(r"[\"'`](/\w+)/", path.read_text())) <= everywhere, path.name


@pytest.mark.skipif(shutil.which("ruff") is None, reason="ruff is not installed: pip install -e '.[dev]'")
def test_lint():
    done = subprocess.run(["ruff", "check", "."], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout
