"""What has to be said to libraries before they are imported, how many processes run the suite, what takes too long."""

import os
import sys
from pathlib import Path

import pytest

# Where there is no GPU, Triton kernels run in Triton's interpreter.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Threads sleep while they wait for one another. Spinning, as is the default, a training step took four to eight times
# as long on two cores that had something else to do besides.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Tests are small: a process per core gets more done than a thread per core. What a test starts is no worker:
# pytest-benchmark would time nothing there.
IS_WORKER = os.environ.pop("PYTEST_XDIST_WORKER", None) is not None
if IS_WORKER:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

MOST_PROCESSES = 4
MOST_SECONDS = 120  # ten times what such a test takes on quick cores, so that a busy machine does not reach it
too_long: list[str] = []


def torch_flags() -> dict:
    """What of torch a whole process shares, and a test must therefore leave as it was."""
    torch = sys.modules["torch"]
    return {
        "cudnn.conv.fp32_precision": torch.backends.cudnn.conv.fp32_precision,
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "default dtype": torch.get_default_dtype(),
    }


@pytest.fixture(autouse=True)
def flags_stay():
    """The test that leaves a flag of torch's changed fails, and not some other one behind it."""
    if "torch" not in sys.modules:
        yield
        return
    before = torch_flags()
    yield
    after = torch_flags()
    changed = {name: (value, after[name]) for name, value in before.items() if value != after[name]}
    assert not changed, f"torch's flags were changed and not set back: {changed}"


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the options
def pytest_cmdline_main(config):
    """A process per core if the whole suite runs and pytest-xdist is there, unless -n says how many, or threads."""
    options, cores = config.option, len(os.sched_getaffinity(0))
    whole = config.args_source == config.ArgsSource.TESTPATHS and not options.collectonly and not options.usepdb
    if whole and cores > 1 and not IS_WORKER and getattr(options, "numprocesses", 0) is None:
        options.numprocesses, options.dist = min(cores, MOST_PROCESSES), "worksteal"
    # Said, their number stays, and a training run is the same to the bit whatever else the machine does. Workers would
    # inherit it, and have a thread per core each.
    if not IS_WORKER and not getattr(options, "numprocesses", 0):
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))


def pytest_collection_modifyitems(items):
    """Files with slow tests come first in workers: else one is left with a long test when the others are through."""
    if IS_WORKER:
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)


def pytest_runtest_logreport(report):
    if report.when == "call" and report.duration > MOST_SECONDS and "slow" not in report.keywords:
        too_long.append(f"{report.nodeid} took {report.duration:.0f} s, more than {MOST_SECONDS}: "
                        "make it smaller, or mark it slow.")  # fmt: skip


def pytest_sessionfinish(session):
    if too_long and os.environ.get("CI") and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
    for sentence in too_long:
        terminalreporter.write_line(sentence, red=True)
