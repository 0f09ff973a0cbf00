"""Which benchmarks run, on what, and what becomes of their rows.

A benchmark is a test with the fixture `compare`: it is given a case, everyone who can do it, and a check
(`benchmarks.comparison`). The rows are merged into `results/<device>/<suite>.json` as they come, from which
`python -m benchmarks.tables` makes README's and docs' tables.
"""

import pytest
import torch

from benchmarks import slower, stored, timer
from benchmarks.comparison import Comparison
from benchmarks.inputs import Draw
from htc_fast import cores
from htc_fast.device import find_device, supports
from htc_fast.errors import UserError
from htc_fast.profiling.limits import Limits, device_name, measure

ROWS = pytest.StashKey[list]()
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
QUICK = 0.2  # seconds for the rounds of one call with --quick


def pytest_addoption(parser):
    group = parser.getgroup("htc_fast's benchmarks")
    group.addoption("--full", action="store_true", help="all sizes; says beforehand how long they take")
    group.addoption("--quick", action="store_true", help="what one GPU does in eight minutes")
    group.addoption("--tiny", action="store_true", help="one small case of each, nothing stored: to see that it runs")
    group.addoption("--no-store", action="store_true", help="leave benchmarks/results as it is")
    group.addoption("--device", help="cpu or cuda; by default a GPU if there is one")


def pytest_configure(config):
    config.stash[ROWS] = []
    cores.hold()  # a row is of so many threads, whatever else the machine does


def pytest_collection_modifyitems(config, items):
    chosen = [item for item in items if _asked_for(item, config)]
    if config.getoption("--tiny"):  # sizes are the same then: one case of each
        chosen = list({item.function: item for item in reversed(chosen)}.values())[::-1]
    kept = set(chosen)
    gone = [item for item in items if item not in kept]
    if gone:
        items[:] = chosen
        config.hook.pytest_deselected(items=gone)


def _asked_for(item, config) -> bool:
    if config.getoption("--quick"):
        return item.get_closest_marker("quick") is not None
    return config.getoption("--full") or item.get_closest_marker("full") is None


def pytest_report_collectionfinish(config, items):
    known = {} if config.getoption("--tiny") else stored.seconds(stored.RESULTS / device_name(_device(config)))
    return stored.estimate(known, [item.nodeid for item in items], config.getoption("--tiny"))


def _device(config) -> torch.device:
    try:
        return find_device(config.getoption("--device"))
    except UserError as error:
        raise pytest.UsageError(f"--device: {error}") from None


@pytest.fixture(scope="session")
def device(request):
    """Where everything runs; on a GPU in a stream of its own, which a CUDA graph can capture."""
    found = _device(request.config)
    if found.type != "cuda":
        yield found
        return
    with torch.cuda.device(found), torch.cuda.stream(torch.cuda.Stream(found)):
        yield found


@pytest.fixture(scope="session")
def limits(request, device) -> Limits:
    """Bytes/s of a copy (read and written), FLOP/s of a product of matrices; the best of several, this minute."""
    if request.config.getoption("--tiny"):
        return Limits(1e10, {str(dtype)[6:]: 1e11 for dtype in DTYPES})
    return measure(device, DTYPES)


@pytest.fixture
def draw(request, device) -> Draw:
    return Draw(device, *(request.config.getoption(name) for name in ("--tiny", "--quick", "--full")))


@pytest.fixture
def dtype(request, device) -> torch.dtype:
    """What the device has no arithmetic for is skipped; parametrize it by name."""
    made = getattr(torch, request.param)
    if not supports(made, device):
        pytest.skip(f"this {device.type} does not compute in {request.param}")
    return made


@pytest.fixture
def compare(benchmark, device, limits, draw, request):
    """A Comparison, whose row is stored."""
    budget = 0.0 if draw.tiny else QUICK if draw.quick else timer.BUDGET
    comparison, suite = Comparison(benchmark, device, limits, budget), request.node.path.stem

    def run(case, *arguments, **options):
        benchmark.group, benchmark.extra_info["case"] = suite, case
        row = comparison(case, *arguments, **options)
        if row is None:
            return
        usual = [request.node.get_closest_marker(name) is not None for name in ("full", "quick")] != [True, False]
        found = suite.removeprefix("bench_"), row | {"full": not usual, "test": request.node.nodeid}, limits.as_dict()
        request.config.stash[ROWS].append(found)
        if _stores(request.config):
            stored.save(stored.RESULTS / row["device"], [found], device)

    return run


def _stores(config) -> bool:
    return not any(config.getoption(name, None) for name in ("--tiny", "--no-store", "benchmark_compare"))


def pytest_sessionfinish(session):
    """Say where the rows are; with --benchmark-compare compare them, and fail where something became slower."""
    config, device = session.config, None
    rows = config.stash[ROWS]
    if not rows or config.getoption("--tiny"):
        return
    device = _device(config)
    folder = stored.RESULTS / device_name(device)
    if config.getoption("benchmark_compare", None):
        lines = slower.report(folder, rows)
        session.exitstatus = 1 if any(line.startswith("slower") for line in lines) else session.exitstatus
        print("\n" + "\n".join(lines), end="")
    elif _stores(config):
        print("\n" + stored.save(folder, rows, device), end="")
