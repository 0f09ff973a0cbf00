"""How many threads: of the cores that this process may use, those that others leave free."""

import contextlib
import math
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import torch

from htc_fast.device import MOST_THREADS
from htc_fast.errors import check_count

PROC, CPUS = Path("/proc"), Path("/sys/devices/system/cpu")
SAID = "OMP_NUM_THREADS", "MKL_NUM_THREADS"  # with one of them in the environment, the user has chosen
PERIOD = 1.0  # seconds between two looks at what others do
FULL = 0.9  # of the cores: then others would do more if they could
STEP = 0.6  # cores by which the threads have to be wrong, so that somebody who comes and goes changes nothing


def usable_cores(proc: Path = PROC) -> int:
    """Cores this process may keep busy: those it is bound to, and no more than its container's share of time.

    proc    where the kernel tells of processes
    source  cgroups of both versions, with all groups around this one; rounded: on 1.5 cores two threads beat one,
            on 1.25 one beats two
    """
    return max(1, math.floor(min([len(_bound()), *_shares(proc)]) + 0.5))


def _bound() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _shares(proc: Path) -> Iterator[float]:
    """The share of time, in cores, of each group that has one, from this process's own to the outermost."""
    try:
        groups = [line.split(":", 2)[1:] for line in (proc / "self/cgroup").read_text().splitlines()]
        mounts = (proc / "self/mountinfo").read_text().splitlines()
    except OSError:  # not Linux
        return
    own = {name: path for names, path in groups for name in names.split(",")}
    for mount in mounts:
        (*_, root, point), (kind, _, options) = mount.split()[:5], mount.partition(" - ")[2].split(" ", 2)
        name = {"cgroup2": "", "cgroup": "cpu"}.get(kind)
        if name not in own or (name and name not in options.split(",")):
            continue
        # A container may see its own group as the root of what is mounted.
        path = PurePosixPath(own[name])
        inside = path.relative_to(root).parts if path.is_relative_to(root) and ".." not in path.parts else ()
        for depth in range(len(inside), -1, -1):
            yield from _share(Path(point, *inside[:depth]))


def _share(group: Path) -> Iterator[float]:
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            share, period = (word for name in names for word in (group / name).read_text().split())
            if int(share) > 0:
                yield int(share) / int(period)
        except (OSError, ValueError, ZeroDivisionError):  # no such limit
            pass


class Load:
    """What others of at least this process's priority do on the cores that it may use.

    proc  where the kernel tells of times; a system that does not tell has no others
    """

    def __init__(self, proc: Path = PROC):
        self.proc = proc
        self.before = self._now()

    def company(self, threads: int) -> float:
        """How many threads of others want a core, on average since the last call.

        threads  with which this process computed
        """
        before, self.before = self.before, self._now()
        wall, busy, own = (max(now - then, 1e-3) for now, then in zip(self.before, before))
        cores, mine = len(_bound()), own / wall
        others = max(busy / wall - mine, 0.0)
        if mine + others < FULL * cores:
            return others
        # Where all want more than there is, each thread gets the same: what ours got on average.
        return min(others * threads / mine, cores)

    def _now(self) -> tuple[float, float, float]:
        """Seconds: of the clock, that those cores were busy, that this process was."""
        names, busy = {f"cpu{number}" for number in _bound()}, 0
        with contextlib.suppress(OSError, ValueError):
            for line in (self.proc / "stat").read_text().splitlines():
                name, *ticks = line.split()
                if name in names:
                    user, nice, system, _, _, interrupt, soft = map(int, ticks[:7])
                    # Who is nice leaves the cores to others, unless they are nice themselves.
                    busy += user + system + interrupt + soft + (nice if os.nice(0) > 0 else 0)
        return time.monotonic(), busy / (os.sysconf("SC_CLK_TCK") if busy else 1), time.process_time()


class Threads:
    """torch's threads: as many as cores are free, unless the user said how many.

    What says so: `OMP_NUM_THREADS`, `hold`, or `torch.set_num_threads` with another number than torch itself takes.
    """

    def __init__(self, proc: Path = PROC):
        self.proc, self.load, self.looked, self.lock = proc, Load(proc), time.monotonic(), threading.Lock()
        self.most = torch.get_num_threads()
        self.count = min(self.most, usable_cores(proc))
        self.held = self.most not in _usual()
        # Each thread of a process has its own number of torch's threads; a new one takes what was set last.
        self.here, self.given = threading.local(), {self.most, self.count}

    def hold(self, count: int | None = None) -> None:
        """Compute with so many threads from here on, whatever others do; None: with all that the process may use.

        raises  UserError
        """
        if count is not None:
            torch.set_num_threads(check_count("hold", count, most=MOST_THREADS))
        elif not self.chosen():
            torch.set_num_threads(min(self.most, usable_cores(self.proc)))
        self.held = True

    def adapt(self, device: torch.device) -> str:
        """Give a processor's next step or batch as many threads as cores are free; looks at others once a second.

        returns  what changed, in a sentence, or nothing
        """
        if device.type != "cpu" or torch.compiler.is_compiling() or self.chosen():
            return ""
        before = self.count
        if time.monotonic() - self.looked >= PERIOD and self.lock.acquire(blocking=False):
            self.count = self._free()
            self.given.add(self.count)
            self.looked = time.monotonic()
            self.lock.release()
        if torch.get_num_threads() != self.count:
            torch.set_num_threads(self.count)
        self.here.given = self.count
        if self.count == before:
            return ""
        return f"{self.count} of {self.most} threads from here on, as many as there are free cores."

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Within, one thread. Another thread of the process that begins meanwhile has it too until `adapt`, and it is
        nobody's choice."""
        before = torch.get_num_threads()
        if not self.chosen():
            self.given.add(1)
            self.here.given = before
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def chosen(self) -> bool:
        """Whether the user said how many threads."""
        now = torch.get_num_threads()
        self.held = self.held or now != getattr(self.here, "given", now) or now not in self.given
        return self.held or any(name in os.environ for name in SAID)

    def _free(self) -> int:
        company, allowed = self.load.company(self.count), min(self.most, usable_cores(self.proc))
        wanted = min(allowed, len(_bound()) - company)
        if self.count <= allowed and abs(wanted - self.count) <= STEP:
            return self.count
        return max(1, round(wanted))


def _usual() -> set[int]:
    """The numbers of threads that torch takes by itself: all cores the process is bound to, or only the real ones."""
    bound = _bound()
    real = set()
    for number in bound:
        path = CPUS / f"cpu{number}/topology/thread_siblings_list"
        real.add(path.read_text() if path.exists() else str(number))
    return {len(bound), len(real)}


_threads = Threads()
adapt, hold, one = _threads.adapt, _threads.hold, _threads.one
