"""Cores that may be used and that are free: cgroups and times as the kernel writes them, and what torch then does."""

import os
import subprocess
import sys
import threading
import time

import pytest
import torch

from htc_fast import cores
from htc_fast.cores import Load, Threads, usable_cores
from htc_fast.errors import UserError

CPU = torch.device("cpu")
V2 = "30 25 0:26 / {point} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "32 31 0:28 {root} {point} rw - cgroup cgroup rw,cpu,cpuacct\n33 31 0:30 / /x rw - cgroup cgroup rw,cpuset\n"
# Name -> (mount, the process's groups, quotas by file, cores of eight).
GROUPS = {
    "no group": ("", "", {}, 8),
    "version 2, its own": (V2, "0::/a/b\n", {"a/b/cpu.max": "200000 100000"}, 2),
    "version 2, the one around": (V2, "0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),
    "version 2, the smallest": (V2, "0::/a/b\n", {"a/b/cpu.max": "500000 100000", "cpu.max": "400000 100000"}, 4),
    "version 2, a container's": (V2, "0::/\n", {"cpu.max": "600000 100000"}, 6),
    "version 2, beside what is mounted": (V2, "0::/../other\n", {"cpu.max": "200000 100000"}, 2),
    "half a core more": (V2, "0::/\n", {"cpu.max": "150000 100000"}, 2),
    "a fifth of a core more": (V2, "0::/\n", {"cpu.max": "120000 100000"}, 1),
    "a tenth of a core": (V2, "0::/\n", {"cpu.max": "10000 100000"}, 1),
    "more than there are": (V2, "0::/\n", {"cpu.max": "6400000 100000"}, 8),
    "nonsense": (V2, "0::/\n", {"cpu.max": "many"}, 8),
    "version 1": (V1, "3:cpuset:/\n1:cpu,cpuacct:/a\n0::/z\n", {"a/": (250000, 50000)}, 5),
    "version 1, the one around": (V1, "1:cpu,cpuacct:/a/b\n", {"a/b/": (-1, 100000), "a/": (300000, 100000)}, 3),
    "version 1, a container's": (V1, "1:cpu,cpuacct:/docker/1\n", {"": (200000, 100000)}, 2),
    "version 1, without a quota": (V1, "1:cpu,cpuacct:/a\n", {"a/": (-1, 100000)}, 8),
}


@pytest.fixture
def eight(monkeypatch):
    """Eight cores that the process is bound to, and torch with as many threads, told by nobody."""
    for name in cores.SAID:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", GROUPS)
def test_cores_that_may_be_used(name, tmp_path, eight):
    mount, groups, quotas, expected = GROUPS[name]
    (tmp_path / "self").mkdir()
    if mount:
        root = "/docker/1" if "container" in name else "/"
        (tmp_path / "self/mountinfo").write_text(mount.format(point=tmp_path / "mounted", root=root))
        (tmp_path / "self/cgroup").write_text(groups)
    for place, value in quotas.items():
        files = {place: value}
        if isinstance(value, tuple):
            files = {f"{place}cpu.cfs_quota_us": value[0], f"{place}cpu.cfs_period_us": value[1]}
        for path, text in files.items():
            (tmp_path / "mounted" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "mounted" / path).write_text(f"{text}\n")
    assert usable_cores(tmp_path) == expected


def test_cores_that_it_is_bound_to(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 6})
    assert usable_cores(tmp_path) == 3


class Machine:
    """/proc/stat of nine cores, of which the process may use the first eight, and clocks that go on when told to."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.now, self.own, self.busy, self.nice = folder, 100.0, 50.0, 60.0, 10.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "process_time", lambda: self.own)
        self.pass_by(0)

    def pass_by(self, seconds, own=0.0, others=0.0, nice=0.0):
        """Seconds in which this process and others kept so many cores busy."""
        self.now, self.own = self.now + seconds, self.own + own * seconds
        self.busy, self.nice = self.busy + (own + others) * seconds, self.nice + nice * seconds
        tick = os.sysconf("SC_CLK_TCK")
        each = f"{self.busy / 8 * tick:.0f} {self.nice / 8 * tick:.0f} 0 900000 7 0 0 5 0 0"
        lines = ["cpu  1 2 3 4 5 6 7 8 9 10", *(f"cpu{n} {each}" for n in range(8))]
        lines += [f"cpu8 {self.now * tick:.0f} 0 0 0 0 0 0 0 0 0", "intr 5 6", "ctxt 99"]
        (self.folder / "stat").write_text("\n".join(lines))


@pytest.fixture
def machine(tmp_path, monkeypatch, eight):
    return Machine(tmp_path, monkeypatch)


def test_company_is_counted_in_threads(machine, tmp_path):
    load = Load(tmp_path)
    machine.pass_by(2.0, own=3.0, others=2.0)
    assert load.company(8) == pytest.approx(2.0, abs=0.1), "there is room: they have what they want"
    machine.pass_by(2.0, own=6.4, others=1.6)
    assert load.company(8) == pytest.approx(2.0, abs=0.1), "8 threads for 6.4 cores: 1.6 cores are shared by 2"
    machine.pass_by(2.0, own=7.9, nice=4.0)
    assert load.company(8) == pytest.approx(0.0, abs=0.1), "of the lowest priority: they make room"


def test_no_company_where_the_system_does_not_say(tmp_path, eight):
    load = Load(tmp_path)
    time.sleep(0.01)
    assert load.company(2) == 0.0


def test_threads_follow_the_free_cores(machine, tmp_path):
    threads = Threads(tmp_path)
    machine.pass_by(0.5, own=1, others=5)
    assert threads.adapt(CPU) == "" and torch.get_num_threads() == 8, "not yet"
    machine.pass_by(0.7, own=1, others=5)
    assert "3 of 8 threads" in threads.adapt(CPU) and torch.get_num_threads() == 3
    machine.pass_by(1.1, own=3, others=5.4)
    assert threads.adapt(CPU) == "" and torch.get_num_threads() == 3, "half a core is no reason"
    machine.pass_by(1.1, own=0.5, others=7.6)
    assert "1 of 8 threads" in threads.adapt(CPU), "one at least"
    machine.pass_by(1.1, own=1)
    assert "8 of 8 threads" in threads.adapt(CPU) and torch.get_num_threads() == 8, "they have gone"


def test_every_thread_of_the_process_follows(machine, tmp_path):
    threads, found = Threads(tmp_path), []
    steps = [threading.Event(), threading.Event()]

    def beside():
        found.append(torch.get_num_threads())
        threads.adapt(CPU)
        steps[0].set()
        steps[1].wait(20)
        threads.adapt(CPU)
        found.append(torch.get_num_threads())

    other = threading.Thread(target=beside)
    other.start()
    assert steps[0].wait(20)
    machine.pass_by(1.5, own=1, others=6)
    threads.adapt(CPU)
    steps[1].set()
    other.join()
    assert found == [8, 2]


@pytest.mark.parametrize("who", ["environment", "before", "after", "hold", "another device"])
def test_what_the_user_said_is_kept(who, machine, tmp_path, monkeypatch):
    if who == "before":
        torch.set_num_threads(5)
    threads, expected = Threads(tmp_path), 8
    if who == "environment":
        monkeypatch.setenv("OMP_NUM_THREADS", "8")
    elif who == "after":
        threads.adapt(CPU)
        torch.set_num_threads(6)
    elif who == "hold":
        threads.hold(7)
    expected = {"before": 5, "after": 6, "hold": 7}.get(who, 8)
    machine.pass_by(2, own=1, others=6)
    assert threads.adapt(torch.device("cuda" if who == "another device" else "cpu")) == ""
    assert torch.get_num_threads() == expected


def test_one_thread_for_a_while_is_nobody_s_choice(machine, tmp_path):
    threads, found = Threads(tmp_path), []

    def beside():
        torch.set_num_threads(1)  # as the first call of torch in a new thread takes what was set last
        threads.adapt(CPU)
        found.append(torch.get_num_threads())

    with threads.one():
        assert torch.get_num_threads() == 1
        other = threading.Thread(target=beside)
        other.start()
        other.join()
    assert found == [8] and torch.get_num_threads() == 8 and not threads.chosen()
    torch.set_num_threads(1)
    assert threads.chosen(), "said by the user, behind it"


@pytest.mark.parametrize("count", [0, -1, 2.5, "2", True, 100_000])
def test_no_such_number_of_threads_is_told(count, machine, tmp_path):
    threads, before = Threads(tmp_path), torch.get_num_threads()
    with pytest.raises(UserError, match="hold takes a whole number from 1 to 1024"):
        threads.hold(count)
    assert torch.get_num_threads() == before and not threads.held


def test_held_threads_are_those_of_the_container(machine, tmp_path):
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_text(V2.format(point=tmp_path))
    (tmp_path / "self/cgroup").write_text("0::/\n")
    (tmp_path / "cpu.max").write_text("300000 100000\n")
    threads = Threads(tmp_path)
    threads.hold()
    machine.pass_by(2, own=1, others=6)
    assert threads.adapt(CPU) == "" and torch.get_num_threads() == 3


def test_a_container_lowers_threads_at_once(machine, tmp_path):
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_text(V2.format(point=tmp_path))
    (tmp_path / "self/cgroup").write_text("0::/\n")
    (tmp_path / "cpu.max").write_text("300000 100000\n")
    Threads(tmp_path).adapt(CPU)
    assert torch.get_num_threads() == 3


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="needs Linux's /proc")
def test_a_busy_process_is_noticed_here():
    busy = subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"])
    try:
        load, began = Load(), time.monotonic()
        while time.monotonic() - began < 3:
            torch.rand(200, 200) @ torch.rand(200, 200)
        assert load.company(torch.get_num_threads()) > 0.4
    finally:
        busy.kill()
        busy.wait()
