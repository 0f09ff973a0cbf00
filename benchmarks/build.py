"""Seconds of the source build, by what is compiled, and from a wheel to the first prediction.

    python -m benchmarks.build [--only build] [--cases cpu default all before] [--before COMMIT]
    python -m benchmarks.build --only wheel --wheel FILE [FILE ...] --weights FILE

Results in the processor's build.json. Builds are `setup.py build_ext` of a copy in a new folder, with as many jobs at
once as there are cores; setuptools, pybind11, cmake and ninja are to be installed. A wheel is installed into a new
environment that finds the packages of this one, with nothing on the PATH but that environment.
"""

import argparse
import importlib.util
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks import stored
from benchmarks.tables.pages import ROOT
from htc_fast.commands import entry
from htc_fast.commands.options import Parser
from htc_fast.data import make_sample_dataset
from htc_fast.errors import UserError

BEFORE = "acdc01d"  # the last commit with one build per Python, without precompiled headers
# Case -> what it is called, and the variables that ask for it.
CASES = {
    "cpu": ("CPU only", {"HTC_FAST_CUDA": "0"}),
    "default": ("default", {}),
    "all": ("all architectures", {"TORCH_CUDA_ARCH_LIST": "all"}),
    "before": ("default, before", {}),
}
# Part -> where its jobs' outputs lie.
PARTS = {
    "adapters": r"csrc/torch/|htc_fast_ops\.dir/cmake_pch",
    "CPU kernels": r"csrc/(cpu|amx)/|/cpu_\w+\.dir/cmake_pch",
    "CUDA kernels": r"csrc/cuda/",
    "linking and the rest": r"",
}
OWN = "HTC_FAST_CUDA", "HTC_FAST_BACKEND", "TORCH_CUDA_ARCH_LIST", "PYTHONPATH", "VIRTUAL_ENV", "XDG_CACHE_HOME"
COMPILERS = "CC", "CXX", "CUDACXX", "CUDA_HOME", "CUDA_PATH"


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("build", "wheel"), help="by default both, wheels where there are any")
    parser.add_argument("--cases", nargs="+", choices=tuple(CASES), default=list(CASES), help="builds")
    parser.add_argument("--before", default=BEFORE, help="commit of the build before")
    parser.add_argument("--wheel", type=Path, nargs="+", default=[], help="wheel files")
    parser.add_argument("--weights", type=Path, help="of the first prediction")
    parser.add_argument("--out", type=Path, help="folder for the results")
    options = parser.parse_args()
    wheels = [] if options.only == "build" else options.wheel
    check(wheels, options.weights, options.only)
    device = torch.device("cpu")
    path = stored.folder(device, options.out) / "build.json"
    for case in [] if options.only == "wheel" else options.cases:
        store(path, device, build(case, options.before))
    for wheel in wheels:
        store(path, device, first_prediction(wheel.resolve(), options.weights.resolve()))


def check(wheels: list[Path], weights: Path | None, only: str | None) -> None:
    """raises  UserError where what is asked for cannot be done: before long work, not after it"""
    if only == "wheel" and not wheels:
        raise UserError("--only wheel needs --wheel FILE: `make wheel` makes them.")
    if wheels and weights is None:
        raise UserError("--wheel needs --weights FILE, of a model to predict with.")
    for file in [*wheels, *filter(None, [weights if wheels else None])]:
        if not file.is_file():
            raise UserError(f"{file} is no file.")
    if only != "wheel" and importlib.util.find_spec("pybind11") is None:
        raise UserError("builds need pybind11 in this environment: pip install pybind11 setuptools cmake ninja.")


def store(path: Path, device: torch.device, row: dict) -> None:
    stored.add(path, device, [row], ("case",))
    print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)


def build(case: str, commit: str) -> dict:
    """Build a copy of the tree, or the commit's for "before".

    returns  case, jobs at once, architectures, "seconds of jobs" by part, "s of CPU" (user and system), "s by the
             clock"
    raises   UserError if it fails
    """
    words, variables = CASES[case]
    jobs = len(os.sched_getaffinity(0))
    print(f"building: {words}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as place:
        tree = Path(place)
        copy_commit(tree, commit) if case == "before" else copy_tree(tree)
        search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        surroundings = {**without(*OWN), "PATH": search, "MAX_JOBS": str(jobs), **variables}
        command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(tree / "made")]
        before, began = cpu_seconds(), time.perf_counter()
        run(command, "the build", cwd=tree, env=surroundings, stdout=sys.stderr)
        clock, spent = time.perf_counter() - began, cpu_seconds() - before
        log = next((tree / "build").glob("cmake-*/.ninja_log"))
        asked = re.search(r"^CMAKE_CUDA_ARCHITECTURES:.*=(.*)$", (log.parent / "CMakeCache.txt").read_text(), re.M)
        parts = {name: round(seconds, 1) for name, seconds in seconds_of(log.read_text()).items()}
    if sum(parts.values()) > 1.3 * spent:
        print("others were at work here: jobs took longer by the clock than their CPU time", file=sys.stderr)
    found = {"architectures": asked[1].split(";") if asked else [], "seconds of jobs": parts}
    about = {"case": words, "commit": commit} if case == "before" else {"case": words}
    return {**about, "jobs": jobs, **found, "s of CPU": round(spent, 1), "s by the clock": round(clock, 1)}


def copy_tree(folder: Path) -> None:
    """What a build reads, without what was built before."""
    for name in ("csrc", "build_backend", "htc_fast"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for file in ("setup.py", "CMakeLists.txt", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / file, folder)


def copy_commit(folder: Path, commit: str) -> None:
    archive = folder / "commit.tar"
    run(["git", "archive", f"--output={archive}", commit], f"git archive of {commit}", cwd=ROOT)
    run(["tar", "-xf", str(archive)], f"unpacking {commit}", cwd=folder)


def seconds_of(log: str) -> dict[str, float]:
    """Part -> seconds that its jobs took by the clock, added up.

    log  .ninja_log: start and end in ms, time of change, output, hash; a job of several outputs has a line for each,
         and of an output's lines the last counts
    """
    lines = [line.split("\t") for line in log.splitlines() if not line.startswith("#")]
    last = {output: (int(start), int(end), job) for start, end, _, output, job in lines}
    jobs = {found: output for output, found in last.items()}
    total = dict.fromkeys(PARTS, 0.0)
    for (start, end, _), output in jobs.items():
        part = next(name for name, pattern in PARTS.items() if re.search(pattern, output))
        total[part] += (end - start) / 1e3
    return total


def first_prediction(wheel: Path, weights: Path) -> dict:
    """Install a wheel into a new environment and predict one picture of the sample.

    returns  case, "MB", "s of pip install", "s of the first prediction"
    raises   UserError if one of both fails, or htc_fast is not the wheel's
    """
    version = wheel.name.split("-")[1]
    picture = min((make_sample_dataset() / "val2017").iterdir())
    print(f"from the wheel {version} to a prediction", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place).resolve()
        run([sys.executable, "-m", "venv", str(folder / "new")], "venv")
        packages = next((folder / "new" / "lib").glob("python*/site-packages"))
        others = [one for one in sys.path if one.endswith(("site-packages", "dist-packages"))]
        (packages / "others.pth").write_text("\n".join(others) + "\n")
        python = str(folder / "new" / "bin" / "python")
        surroundings = {**without(*OWN, *COMPILERS), "PATH": str(folder / "new" / "bin"), "HOME": str(folder)}
        about: dict = {"cwd": folder, "env": surroundings}
        # An htc_fast among the other packages stays as it is, and is not to stand for this one.
        install = [python, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--ignore-installed", str(wheel)]
        began = time.perf_counter()
        run(install, "pip install", **about)
        middle = time.perf_counter()
        predict = [python, "-m", "htc_fast.predict", str(picture), "--weights", str(weights), "--out", "out"]
        run(predict, "the first prediction", **about)
        end = time.perf_counter()
        found = subprocess.check_output([python, "-c", "import htc_fast; print(htc_fast.__file__)"], text=True, **about)
        if not found.startswith(str(packages)) or not any((folder / "out").iterdir()):
            raise UserError(f"{found.strip()} predicted, not the wheel's htc_fast, or it left nothing.")
    size = round(wheel.stat().st_size / 1e6, 2)
    seconds = {"s of pip install": round(middle - began, 1), "s of the first prediction": round(end - middle, 1)}
    return {"case": f"wheel {version}", "MB": size, **seconds}


def run(command: list[str], what: str, **about) -> None:
    """raises  UserError if the command fails; it has said why itself"""
    if status := subprocess.run(command, **about).returncode:
        raise UserError(f"{what} failed with status {status}: see above.")


def without(*names: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in names}


def cpu_seconds() -> float:
    """User and system time of all processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    entry.run(main)
