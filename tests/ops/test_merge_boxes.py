"""semantic_merge by boxes of 8 x 8 pixels whose resampling is a product: when, and what it makes."""

from dataclasses import replace

import pytest
import torch

from htc_fast import ops
from tests.ops.backends import INTERPRETING
from tests.ops.matrix_cases import compare, on_triton
from tests.ops.test_semantic_merge import leaves, merge

if not INTERPRETING and not torch.cuda.is_available():
    pytest.skip("needs Triton's interpreter or a GPU", allow_module_level=True)

from htc_fast.ops.triton import merge_boxes, semantic_merge, tiles

H200 = tiles.Device("none", 132, 232448, True, True)
CASES = {
    "pyramid": (leaves((24, 40), (12, 20), (6, 10), (3, 5), (2, 3), channels=16, outputs=32), 1),
    "odd sizes": (leaves((13, 17), (7, 9), (4, 5), (2, 3), channels=32, outputs=16, images=3), 0),
    "longer along one axis": (leaves((9, 20), (17, 3), (5, 5), images=1, outputs=16), 0),
    "a line": (leaves((1, 30), (1, 12), (1, 1), outputs=16), 0),
    "several tiles of outputs": (leaves((10, 9), (5, 4), channels=48, outputs=144, images=1), 0),
}


@pytest.fixture(autouse=True)
def taken(monkeypatch):
    taken, call = [], merge_boxes.merge_boxes

    def noted(*given):
        taken.append(given)
        call(*given)

    monkeypatch.setattr(semantic_merge, "merge_boxes", noted)
    monkeypatch.setattr(semantic_merge, "device_of", lambda x: H200)
    return taken


@pytest.mark.parametrize("column", on_triton("semantic_merge"))
@pytest.mark.parametrize("name", CASES)
def test_equals_reference(name, column, taken):
    given, level = CASES[name]
    compare(lambda *some: merge(*some, level=level), given, column, torch.float16, backward=False)
    assert taken


@pytest.mark.parametrize("column", on_triton("semantic_merge"))
def test_rounds_no_more_than_the_definition(column, taken):
    given = [one.to(column.device).half() for one in leaves((24, 32), (12, 16), (6, 8), channels=64, outputs=64)]
    with ops.use_backend("reference"):
        exact, plain = merge(*(one.double() for one in given), level=0), merge(*given, level=0)
    with ops.use_backend(column.backend):
        found = merge(*given, level=0)
    assert (found - exact).norm() <= 1.1 * (plain - exact).norm()
    assert taken


def maps(*sides, channels=256, dtype=torch.bfloat16):
    return [torch.empty(1, channels, *side, dtype=dtype, device="meta") for side in sides]


PYRAMID = (100, 168), (50, 84), (25, 42), (13, 21)


def test_windows():
    first, *small = maps(*PYRAMID)
    assert merge_boxes.windows_of(small, 100, 168) == [(3, 3), (2, 2), (2, 2)]
    assert merge_boxes.takes(first, small, 256, H200)


@pytest.mark.parametrize(
    "size, out_size", [(50, 100), (84, 168), (25, 100), (13, 100), (7, 9), (2, 3), (1, 5), (10, 11)]
)
def test_a_window_holds_what_a_box_reads(size, out_size):
    step = torch.tensor((size - 1) / (out_size - 1), dtype=torch.float32)
    low = (torch.arange(out_size) * step).int()
    last = (low + 1).clamp(max=size - 1)
    width = max(last[min(at + 7, out_size - 1)] - low[at] + 1 for at in range(0, out_size, merge_boxes.SIDE))
    assert width <= 2 ** merge_boxes.window_side(size, out_size)


@pytest.mark.parametrize(
    "given, outputs, device",
    [
        (maps(*PYRAMID, dtype=torch.float32), 256, H200),
        (maps(*PYRAMID, channels=19), 256, H200),
        (maps(*PYRAMID), 33, H200),
        (maps(*PYRAMID[:1]), 256, H200),  # nothing to resample
        (maps(*PYRAMID, (7, 11)), 256, H200),
        (maps((10, 100), (40, 10)), 256, H200),  # a window of many lines
        (maps(*PYRAMID), 256, replace(H200, resident=False)),
        (maps(*PYRAMID), 256, replace(H200, warpgroups=False)),
        (maps(*PYRAMID), 256, replace(H200, shared=163 * 1024)),
    ],
)
def test_others_are_left_to_the_other_kernel(given, outputs, device):
    assert not merge_boxes.takes(given[0], given[1:], outputs, device)
