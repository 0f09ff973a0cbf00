"""What every benchmark shares: inputs on the device, the device's limits, rivals beside each other, stored rows.

A benchmark is a test with the fixture `compare`: it is given a case, everyone who can do it, and a check. Everyone's
result is checked before it is timed; who is absent is reported with the reason. The rows of a session are merged into
`results/<device>/<suite>.json`, from which `scripts/bench_tables.py` makes the README's tables.
"""

import datetime
import time

import pytest
import torch

from benchmarks import rivals, slower, stored, timing
from benchmarks.stored import RESULTS
from htc_fast import ops
from htc_fast.device import supports
from htc_fast.ops import _backend, _native
from htc_fast.profiling.limits import Limits, device_name, machine, measure
from tests import inputs

__all__ = ["RESULTS", "device_name", "machine"]
ROWS = pytest.StashKey[list]()
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TINY = {"count": 24, "channels": 8, "image": (64, 96)}


def pytest_addoption(parser):
    group = parser.getgroup("htc_fast's benchmarks")
    group.addoption("--full", action="store_true", help="all sizes; says beforehand how long they take")
    group.addoption("--tiny", action="store_true", help="one small case of each, nothing stored: to see that it runs")
    group.addoption("--no-store", action="store_true", help="leave benchmarks/results as it is")
    group.addoption("--device", help="cpu or cuda; by default a GPU if there is one")


def pytest_configure(config):
    config.stash[ROWS] = []
    config.addinivalue_line("markers", "full: a size that only --full runs")


def pytest_collection_modifyitems(config, items):
    left_out = []
    if not config.getoption("--full"):
        left_out = [item for item in items if item.get_closest_marker("full")]
    if config.getoption("--tiny"):  # sizes are the same then: one case of each
        first = {item.function: item for item in reversed(items) if item not in left_out}
        left_out = [item for item in items if item is not first.get(item.function)]
    if left_out:
        gone = set(left_out)
        items[:] = [item for item in items if item not in gone]
        config.hook.pytest_deselected(items=left_out)


def pytest_report_collectionfinish(config, items):
    known = {} if config.getoption("--tiny") else stored.seconds(RESULTS / device_name(_device(config)))
    return stored.estimate(known, [item.nodeid for item in items], config.getoption("--tiny"))


def _device(config) -> torch.device:
    asked = config.getoption("--device") or ("cuda" if torch.cuda.is_available() else "cpu")
    if asked.split(":")[0] not in ("cpu", "cuda") or (asked != "cpu" and not torch.cuda.is_available()):
        raise pytest.UsageError(f"--device {asked} is not here: use cpu{' or cuda' * torch.cuda.is_available()}.")
    return torch.device(asked)


@pytest.fixture(scope="session")
def device(request) -> torch.device:
    return _device(request.config)


@pytest.fixture(scope="session")
def limits(request, device) -> Limits:
    """Bytes/s of a copy (read and written), FLOP/s of a product of matrices; the best of several, this minute."""
    if request.config.getoption("--tiny"):
        return Limits(1e10, {str(dtype)[6:]: 1e11 for dtype in DTYPES})
    return measure(device, DTYPES)


class Draw:
    """The tests' inputs, on the device; small ones under --tiny."""

    def __init__(self, device: torch.device, tiny: bool, full: bool = False):
        self.device, self.tiny, self.full = device, tiny, full
        self.image = TINY["image"] if tiny else inputs.IMAGE

    def count(self, number: int) -> int:
        return min(number, TINY["count"]) if self.tiny else number

    def channels(self, number: int) -> int:
        return min(number, TINY["channels"]) if self.tiny else number

    def size(self, image: tuple[int, int]) -> tuple[int, int]:
        return TINY["image"] if self.tiny else image

    def maps(self, channels=256, images=1, dtype=torch.float32, seed=0) -> list[torch.Tensor]:
        made = inputs.maps(self.channels(channels), images, self.image, dtype, seed)
        return [one.to(self.device) for one in made]

    def proposals(self, count: int, images: int = 1) -> torch.Tensor:
        """[K, 5] in the order of their images, as rivals return them."""
        made = inputs.proposals(self.count(count), images, self.image)
        return made[made[:, 0].argsort(stable=True)].to(self.device)

    def candidates(self, count: int, classes: int) -> list[torch.Tensor]:
        return [one.to(self.device) for one in inputs.candidates(self.count(count), classes, self.image)]

    def soft_masks(self, count: int, image: tuple[int, int]) -> list[torch.Tensor]:
        return [one.to(self.device) for one in inputs.soft_masks(self.count(count), self.size(image))]

    def normal(self, *shape: int, dtype=torch.float32, scale=1.0) -> torch.Tensor:
        """Of one seed, channels-last if it is a map."""
        made = (torch.randn(shape, generator=inputs.generator(0)) * scale).to(dtype).to(self.device)
        return made.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else made


@pytest.fixture
def draw(request, device) -> Draw:
    return Draw(device, request.config.getoption("--tiny"), request.config.getoption("--full"))


@pytest.fixture
def dtype(request, device) -> torch.dtype:
    """What the device has no arithmetic for is skipped; parametrize it by name."""
    made = getattr(torch, request.param)
    if not supports(made, device):
        pytest.skip(f"this {device.type} does not compute in {request.param}")
    return made


@pytest.fixture
def compare(benchmark, device, limits, request):
    """compare(case, calls, check, *, op, gigabytes, gflop, dtype, backend, verify), the last six by name and optional

    calls      who -> callable, or Absent; the first is ours and goes to pytest-benchmark
    check      result of ours, result of another, who -> None, or an AssertionError
    verify     result of ours -> None, or an AssertionError
    op         whose backends are asked for; on a GPU each of them is timed
    gigabytes  that must move, and GFLOP that must be done: for the share of the device's limit
    """

    def run(case, calls, check, *, op=None, gigabytes=None, gflop=None, dtype=torch.float32, backend=None, verify=None):
        began, budget = time.monotonic(), 0.0 if request.config.getoption("--tiny") else timing.BUDGET
        (ours, call), *others = calls.items()
        others += _other_backends(op, call, device)
        result, here, absent = call(), {}, {}
        if verify is not None:
            verify(result)
        for who, rival in others:
            found = _tried(rival)
            if isinstance(found, rivals.Absent):
                absent[who] = str(found)
                continue
            check(result, found, who)
            here[who] = rival
            del found
        del result
        benchmark.group, benchmark.extra_info["case"] = request.node.path.stem, case
        times = _timed(benchmark, call, device, budget)
        if not times:
            return
        row = {
            "case": case,
            "device": device_name(device),
            "dtype": str(dtype)[6:],
            "backend": backend or _backend_name(op, device),
            "milliseconds": {ours: _entry(times, call, device)},
        }
        for who, rival in here.items():
            row["milliseconds"][who] = _entry(timing.sample(rival, device, budget), rival, device)
        row |= stored.rates(row["milliseconds"][ours], limits, row["dtype"], gigabytes, gflop)
        row |= {"ratio": stored.ratios(row["milliseconds"]), "absent": absent}
        row |= {"date": str(datetime.date.today()), "full": bool(request.node.get_closest_marker("full"))}
        row |= {"test": request.node.nodeid, "seconds": round(time.monotonic() - began, 1)}
        request.config.stash[ROWS].append((request.node.path.stem.removeprefix("bench_"), row, limits.as_dict()))

    return run


def _timed(benchmark, call, device, budget: float) -> list[float]:
    """Seconds of ours, which has run before, seen by pytest-benchmark too; none where it is switched off."""
    waited = timing.settled(call, device)
    began = time.perf_counter()
    waited()
    first = time.perf_counter() - began
    short = first <= timing.SHORT
    benchmark.pedantic(waited, rounds=timing.rounds(first, budget), iterations=timing.INSIDE if short else 1)
    if not benchmark.stats:
        return []
    if device.type == "cuda":
        return timing.sample(call, device, budget)
    return sorted(benchmark.stats.stats.data) + [first] * (not short)


def _entry(times: list[float], call, device: torch.device) -> dict[str, float]:
    made = timing.summary(times)
    return made if device.type != "cuda" else made | timing.on_gpu(call, device, made["median"] / 1e3)


def _tried(rival):
    """The result of a rival, or why there is none."""
    if isinstance(rival, rivals.Absent):
        return rival
    try:
        return rival()
    except Exception as error:  # whatever another project's version stumbles over
        return rivals.Absent(f"failed: {rivals.first_line(error)}")


def _backend_name(op: str | None, device: torch.device) -> str:
    name = _backend.backend_for(op, torch.empty(0, device=device)) if op else "torch"
    return "oneDNN, through torch" if name == "cpp" and op in _backend.from_torch else name


def _other_backends(op: str | None, call, device: torch.device) -> list[tuple]:
    """On a GPU: which other backends of ours do it."""
    if op is None or device.type != "cuda":
        return []
    chosen = _backend.backend_for(op, torch.empty(0, device=device))
    native = op in _backend.from_torch or _native.has_cuda()
    names = [name for name in ("cuda", "triton") if name in _backend.available[op] and name != chosen]
    return [(f"htc_fast, {name}", _forced(call, name)) for name in names if name == "triton" or native]


def _forced(call, backend: str):
    def run():
        with ops.use_backend(backend):
            return call()

    return run


def pytest_sessionfinish(session):
    """Store the rows; with --benchmark-compare only compare them, and fail where something became slower."""
    config = session.config
    rows, compares = config.stash[ROWS], bool(config.getoption("benchmark_compare", None))
    if not rows or config.getoption("--tiny") or (config.getoption("--no-store") and not compares):
        return
    folder = RESULTS / device_name(_device(config))
    if compares:
        lines = slower.report(folder, rows)
        session.exitstatus = 1 if any(line.startswith("slower") for line in lines) else session.exitstatus
    else:
        lines = stored.save(folder, rows, _device(config))
    print("\n" + "\n".join(lines), end="")
