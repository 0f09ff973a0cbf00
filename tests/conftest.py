"""What has to be said to libraries before they are imported, how many processes run the suite, what takes too long."""

import os
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


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the options
def pytest_cmdline_main(config):
    """A process per core where the whole suite runs and pytest-xdist is there, unless -n says how many."""
    options, cores = config.option, len(os.sched_getaffinity(0))
    whole = config.args_source == config.ArgsSource.TESTPATHS and not options.collectonly and not options.usepdb
    if whole and cores > 1 and not IS_WORKER and getattr(options, "numprocesses", 0) is None:
        options.numprocesses, options.dist = min(cores, MOST_PROCESSES), "worksteal"


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
