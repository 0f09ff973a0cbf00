"""The emulator itself: it computes what a GPU would, and catches what it promises to catch."""

import ctypes
import subprocess
import sys

import numpy as np
import pytest

from tests.simt import emulator


class Kernels:
    def __init__(self, variant: str) -> None:
        self.library = ctypes.CDLL(str(emulator.self_test_library(variant)))

    def seed(self, seed: int) -> None:
        self.library.simt_set_seed(ctypes.c_uint64(seed))

    def run(self, name: str, values: np.ndarray, out: np.ndarray, count: int = 0) -> str:
        """The error's text, empty if there was none."""
        error = ctypes.create_string_buffer(512)
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (values, out)]
        self.library.self_test(name.encode(), *pointers, count, error)
        return error.value.decode()


@pytest.fixture(scope="module")
def plain() -> Kernels:
    return Kernels("plain")


@pytest.fixture(scope="module")
def race() -> Kernels:
    return Kernels("race")


NOTHING = np.zeros(1, np.float32)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_block_sum(plain, seed):
    plain.seed(seed)
    values, out = np.random.default_rng(seed).random(10_000, np.float32), np.zeros(1, np.float32)
    assert plain.run("block_sum", values, out, len(values)) == ""
    np.testing.assert_allclose(out[0], values.sum(dtype=np.float64), rtol=1e-5)


@pytest.mark.parametrize("seed", [0, 5])
def test_votes_and_shuffles(plain, seed):
    plain.seed(seed)
    out = np.zeros((64, 6), np.uint32)
    assert plain.run("votes", NOTHING, out) == ""
    for thread, row in enumerate(out):
        lane = thread % 32
        half = range(16) if lane < 16 else range(16, 32)
        assert row[0] == 0xAAAAAAAA
        assert row[1] == sum(1 << i for i in half if i % (3 if lane < 16 else 5) == 0)
        assert row[2] == 15 << lane // 4 * 4
        assert row[3] == 6
        assert row[4] == (lane - 2 if lane >= 2 else lane)
        assert row[5] == (lane + 3 if lane % 8 + 3 < 8 else lane)


def test_halves_round_like_numpy_and_torch(plain):
    import torch

    bits = np.random.default_rng(0).integers(0, 2**32, 64_000, dtype=np.uint32)
    special = [
        0.0,
        -0.0,
        np.inf,
        -np.inf,
        np.nan,
        65504,
        65519.99,
        65520,
        6e-8,
        2.9e-8,
        6.1e-5,
        1 + 2**-11,
        1 + 3 * 2**-11,
    ]
    values = np.concatenate(
        [bits.view(np.float32), np.geomspace(1e-9, 1e6, 6400, dtype=np.float32), np.float32(special)]
    )
    values = np.resize(values, len(values) // 32 * 32 + 32).astype(np.float32)
    out = np.zeros(4 * len(values), np.float32)
    assert plain.run("roundtrip", values, out, len(values)) == ""
    back = out[2 * len(values) :].reshape(-1, 2)
    tensor = torch.from_numpy(values)
    np.testing.assert_array_equal(back[:, 0], tensor.half().float().numpy())
    np.testing.assert_array_equal(back[:, 1], tensor.bfloat16().float().numpy())


def test_vector_reduction(plain):
    room = np.zeros(16, np.float32)
    start = -room.ctypes.data // 4 % 4
    out = room[start : start + 8]
    assert plain.run("vector_add", NOTHING, out) == ""
    np.testing.assert_array_equal(out, np.tile([96, 192, 288, 384], 2))
    assert "16-byte" in plain.run("vector_add", NOTHING, room[start + 1 : start + 9])


def test_deadlock_is_told(plain):
    error = plain.run("missed_barrier", NOTHING, np.zeros(64, np.float32))
    assert "deadlock" in error and "missed_barrier" in error and "1 threads wait at __shfl_sync" in error
    out = np.zeros(1, np.float32)
    assert plain.run("block_sum", np.ones(256, np.float32), out, 256) == "" and out[0] == 256  # it recovers


def test_impossible_launch_is_told(plain):
    assert "refuse" in plain.run("too_many", NOTHING, np.zeros(64, np.float32))


def test_shared_memory_is_poisoned_per_block(plain):
    plain.seed(0)
    out = np.zeros(3, np.float32)
    assert plain.run("read_unwritten", NOTHING, out, 3) == ""
    assert out[0] == 7 and np.isnan(out[1:]).all()


@pytest.mark.parametrize("name", ["racy_sum", "two_blocks_one_place", "hand_round_too_early", "hand_round_together"])
@pytest.mark.parametrize("seed", [0, 3])
def test_races_are_found(race, name, seed):
    race.seed(seed)
    assert "race" in race.run(name, np.ones(64, np.float32), np.zeros(64, np.float32))


def test_no_race_where_there_is_none(race):
    out = np.zeros(64 * 6, np.float32)
    assert race.run("block_sum", np.ones(512, np.float32), out, 512) == ""
    assert race.run("votes", NOTHING, out) == ""
    assert race.run("hand_round", NOTHING, np.zeros(64, np.float32)) == ""


OUTSIDE = """
import numpy as np
from tests.simt.test_emulator import Kernels
kernels = Kernels("asan")
out = np.zeros(64, np.float32)
assert kernels.run("block_sum", np.ones(512, np.float32), out, 512) == ""
assert kernels.run("outside_shared", out, out, 32) == ""
print("clean", flush=True)
kernels.run("outside_shared", out, out, 33)
"""


@pytest.mark.slow
def test_sanitizer_sees_the_end_of_shared_memory():
    environment = emulator.sanitizer_environment()
    result = subprocess.run(
        [sys.executable, "-c", OUTSIDE], cwd=emulator.ROOT, env=environment, capture_output=True, text=True
    )
    assert result.stdout == "clean\n", result.stderr[-2000:]
    assert "heap-buffer-overflow" in result.stderr and result.returncode != 0
