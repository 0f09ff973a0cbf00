"""scripts/gpu_check.sh without a GPU: what its calls name exists, their limits fit, and a rehearsal runs to the end."""

import functools
import importlib.util
import itertools
import os
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "gpu_check.sh"
CALLS = ("call1", "call2", "call3", "call4", "call5")
MOST = 600  # seconds of one command there


def run(*words: str, **environment: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHON": sys.executable, **environment}
    return subprocess.run(["bash", str(SCRIPT), *words], capture_output=True, text=True, env=environment, cwd=ROOT)


@functools.cache
def steps(call: str) -> list[tuple[str, int, list[str]]]:
    """Name, limit in seconds and command of each."""
    done = run(call, LIST="1")
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    return [(name, int(limit), shlex.split(command)) for name, limit, command in rows]


def test_limits_of_a_call_fit_into_one_command():
    for call in CALLS:
        # Ten seconds until an interrupted step is killed, and a minute for sanitizers that run beside the tests.
        spent = sum(limit for _, limit, _ in steps(call)) + 10 + 60 * (call == "call1")
        assert 300 < spent < MOST, f"{call}: {spent} s"


def test_everything_that_is_named_exists():
    for call in CALLS:
        for name, _, words in steps(call):
            assert len(words) > 2, name
            for before, word in itertools.pairwise(words):
                module = before == "-m" and word not in ("pytest", "gpu")
                assert not module or importlib.util.find_spec(word) is not None, word
                path = word.removeprefix("--ignore=")
                assert not path.startswith(("tests/", "benchmarks/", "scripts/")) or (ROOT / path).exists(), word


def test_no_operator_is_forgotten():
    commands = {name: words for call in CALLS for name, _, words in steps(call)}
    tests = {str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "ops").glob("test_*.py")}
    assert tests == {*commands["matrix_operators"], *commands["cuda_operators"]} & tests
    assert set(commands["cuda_operators"]) & tests == set(commands["triton_operators"]) & tests
    assert not set(commands["matrix_operators"]) & set(commands["cuda_operators"]) & tests
    benchmarks = {str(path.relative_to(ROOT)) for path in (ROOT / "benchmarks").glob("bench_*.py")}
    timed = [word for name in ("cuda_times", "matrix_times", "rivals") for word in commands[name] if word in benchmarks]
    assert sorted(timed) == sorted(benchmarks)


def test_a_step_that_fails_fails_the_call_and_leaves_its_log(tmp_path):
    done = run("call2", PYTHON="false", DRY="1", OUT=str(tmp_path / "out"), WORK=str(tmp_path / "work"))
    assert done.returncode == 1 and "detector: FAILED (1)" in done.stdout and "call2 took" in done.stdout
    assert "detector: FAILED (1)" in (tmp_path / "out" / "summary.txt").read_text()
    with tarfile.open(tmp_path / "out" / "logs.tar.gz") as logs:
        assert "logs/matrix_times.log" in logs.getnames()


def test_no_such_call_is_told_what_there_is():
    done = run("call6")
    assert done.returncode == 2 and all(call in done.stdout for call in CALLS) and "dirname" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
def test_a_rehearsal_runs_to_its_end(call, tmp_path):
    """Every command, on tiny sizes; with the cache of an earlier call."""
    work, cache = tmp_path / "work", tmp_path / "cache"
    (cache / "kept").mkdir(parents=True)
    (cache / "kept" / "kernel.json").write_text("{}")
    with tarfile.open(cache / "triton_cache.tar.xz", "w:xz") as made:
        made.add(cache / "kept", "kept")
    done = run(call, DRY="1", OUT=str(tmp_path / "out"), WORK=str(work), CACHE=str(cache))
    assert done.returncode == 0 and "FAILED" not in done.stdout, done.stdout + done.stderr
    assert [name for name, _, _ in steps(call) if f"{name}: passed" not in done.stdout] == []
    found = {path.name for path in (tmp_path / "out").iterdir()}
    tiles = {"tiles.json"} if call == "call3" else set()
    caches = {"triton_cache.tar.xz", "inductor_cache.tar.xz"}
    assert found == {"summary.txt", "logs.tar.gz", "results.tar.gz"} | caches | tiles
    assert (work / "triton" / "kept" / "kernel.json").exists()
    extra = {"call1": ["small.log"], "call2": ["replay_1.json"], "call3": ["tune.json"]}.get(call, [])
    assert all((work / "logs" / name).exists() for name in extra)
