"""Which products cuDNN does instead of the Triton kernels: on tensors without data that claim to be on a GPU."""

import pytest
import torch

pytest.importorskip("triton")

from htc_fast import ops
from htc_fast.ops import _cudnn
from htc_fast.ops.triton import by_cudnn, matrix, tiles, tma
from htc_fast.ops.triton.epilogue import ALL, COUNTED, LABELLED, PLAIN, RELU, SUM
from htc_fast.ops.triton.tiles import Device
from scripts.launch_recorder import pretending
from tests.ops.backends import convolutions_in

GPU = Device("a GPU", 132, 232448, True, True)


@pytest.fixture
def calls(monkeypatch):
    """Who did a product: "cudnn" or the name of a kernel."""
    made = []

    def run(x, weight, *rest):
        made.append("cudnn")
        return x.new_empty(len(x), len(weight), *x.shape[2:])

    for module in (matrix, tma):
        monkeypatch.setattr(module, "launch", lambda kernel, *some, **more: made.append(kernel.fn.__name__))
    monkeypatch.setattr(matrix, "trusted", lambda *some: True)
    for module in (matrix, tiles):
        monkeypatch.setattr(module, "device_of", lambda x: GPU)
    monkeypatch.setattr(tiles, "table", lambda: {})
    monkeypatch.setattr(_cudnn, "takes", lambda *some, **more: True)
    monkeypatch.setattr(_cudnn, "run", run)
    monkeypatch.setattr(_cudnn, "_seen", {})
    monkeypatch.setattr(by_cudnn, "_settled", set())
    return made


def product(count=3, epilogue=RELU, wanted=ALL, taps=9, bias=True):
    with pretending():
        last = {"memory_format": torch.channels_last}
        x = torch.empty(count, 64, 6, 7, device="cuda", dtype=torch.float16).contiguous(**last)
        side = 3 if taps == 9 else 1
        weight = torch.empty(64, 64, side, side, device="cuda", dtype=torch.float16).contiguous(**last)
        choice = None if wanted == ALL else torch.empty(1 if wanted == COUNTED else count, device="cuda").long()
        steps = (1, 9 * 64, 64) if taps == 9 else (1, 64, 0)
        found = matrix.product(x, weight, 64, steps, taps, epilogue, weight[:, 0, 0, 0] if bias else None,
                               choice=choice, wanted=wanted)  # fmt: skip
    assert found.shape == (count, 64, 6, 7)


def test_a_3x3_with_relu_is_cudnn_s(calls):
    product()
    product(wanted=LABELLED)
    assert calls == ["cudnn", "cudnn"]


@pytest.mark.parametrize(
    "other",
    [{"wanted": COUNTED}, {"epilogue": SUM}, {"epilogue": PLAIN, "bias": False}, {"taps": 1}],
    ids=["zeros where a count ends", "no ReLU", "a gradient", "1x1"],
)
def test_everything_else_is_ours(other, calls):
    product(**other)
    assert len(calls) == 1 and calls[0] in ("product_kernel", "tma_kernel")


def test_a_forced_backend_and_a_faster_tile_are_ours(calls, monkeypatch):
    with ops.use_backend("triton"):
        product()
    monkeypatch.setattr(matrix, "beats_cudnn", lambda x, outputs, tma: True)
    product()
    assert len(calls) == 2 and "cudnn" not in calls


@pytest.mark.parametrize("faster", [False, True])
def test_a_search_measures_cudnn_too(faster, calls, monkeypatch, tmp_path):
    found = {}
    monkeypatch.setattr(tiles, "table", lambda: found)
    monkeypatch.setattr(tiles, "cache", lambda: tmp_path / "tiles.json")
    monkeypatch.setattr(tiles, "searching", lambda x: True)
    monkeypatch.setattr(tiles, "_time", lambda run: (2.0 if faster else 0.5) if run.func is by_cudnn.run else 1.0)
    product()
    assert [row["beats cuDNN"] for row in found[GPU.name].values()] == [faster] and "cudnn" not in calls
    calls.clear()
    product()
    assert (calls == ["cudnn"]) == (not faster) and len(found[GPU.name]) == 1


@pytest.mark.parametrize(("error", "kernels"), [(RuntimeError("no engine"), 1), (torch.OutOfMemoryError("full"), 0)])
def test_what_cudnn_cannot_do_after_all_is_ours(error, kernels, calls, monkeypatch):
    def fails(*some):
        raise error

    monkeypatch.setattr(_cudnn, "run", fails)
    if kernels:
        product()
        assert len(calls) == 1 and list(_cudnn._seen.values()) == [False]
    else:  # one map of the result more would not have fitted either
        with pytest.raises(torch.OutOfMemoryError):
            product()


def test_too_little_memory_to_try_it_is_no_error(calls, monkeypatch):
    def fails(*some, **more):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(_cudnn, "takes", fails)
    product()
    assert len(calls) == 1 and calls != ["cudnn"]


def relu3x3(count=3, dtype=torch.float16, extra=False):
    with pretending():
        last = {"memory_format": torch.channels_last}
        x = torch.empty(count, 64, 6, 7, device="cuda", dtype=dtype).contiguous(**last)
        weight = torch.empty(64, 64, 3, 3, device="cuda", dtype=dtype).contiguous(**last)
        matrix.convolution_relu(x, weight, weight[:, 0, 0, 0], torch.empty_like(x) if extra else None)


def test_what_is_settled_is_not_asked_again_until_something_differs(calls, monkeypatch):
    asked = []
    monkeypatch.setattr(_cudnn, "takes", lambda *some, **more: asked.append(len(some[0])) or True)
    monkeypatch.setattr(_cudnn, "allowed", lambda: True)
    relu3x3(), relu3x3(), relu3x3(4), relu3x3(), relu3x3(3, torch.bfloat16), relu3x3(extra=True)
    assert asked == [3, 4, 3, 3] and calls == ["cudnn"] * 6
    asked.clear(), calls.clear()
    for precision in ("ieee", "tf32", "ieee"):
        with convolutions_in(precision):
            relu3x3(5, torch.float32)
    assert asked == [5, 5]
    with ops.use_backend("triton"):
        relu3x3()
    monkeypatch.setattr(_cudnn, "allowed", lambda: False)
    monkeypatch.setattr(_cudnn, "takes", lambda *some, **more: False)
    relu3x3()
    assert "cudnn" not in calls[3:] and len(calls) == 5


def test_what_was_settled_and_fails_is_ours(calls, monkeypatch):
    def fails(*some):
        raise RuntimeError("no engine")

    monkeypatch.setattr(_cudnn, "allowed", lambda: True)
    relu3x3()
    monkeypatch.setattr(_cudnn, "run", fails)
    monkeypatch.setattr(_cudnn, "takes", lambda *some, **more: False)
    relu3x3(), relu3x3()
    assert calls[0] == "cudnn" and len(calls) == 3 and "cudnn" not in calls[1:] and not by_cudnn._settled


class Library:
    """cuDNN's calls on a CPU. nan_as_zero: what its ReLU makes of NaN."""

    def __init__(self, monkeypatch, nan_as_zero):
        self.nan_as_zero = nan_as_zero
        monkeypatch.setattr(torch, "cudnn_convolution_relu", lambda x, w, b, *more: self.relu(x, w, b, 0.0, *more))
        monkeypatch.setattr(torch, "cudnn_convolution_add_relu", self.add_relu)
        monkeypatch.setattr(torch._C, "_has_cudnn", True)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
        monkeypatch.setattr(_cudnn, "_seen", {})

    def relu(self, x, weight, bias, other, *geometry):
        found = torch.nn.functional.conv2d(x, weight, bias, *geometry) + other
        return (found.nan_to_num(nan=0.0) if self.nan_as_zero else found).relu()

    def add_relu(self, x, weight, other, alpha, bias, *geometry):
        return self.relu(x, weight, bias, other * alpha if alpha else 0.0, *geometry)


@pytest.mark.parametrize("nan_as_zero", [False, True])
@pytest.mark.parametrize("bias", [0.0, -1.0, float("nan")])
def test_nan_has_to_stay_where_that_is_asked_for_whatever_the_bias(nan_as_zero, bias, monkeypatch):
    Library(monkeypatch, nan_as_zero)
    given = torch.randn(2, 4, 5, 6), torch.randn(8, 4, 3, 3), torch.full((8,), bias), None, _cudnn.SQUARE
    assert _cudnn.takes(*given, keeps_nan=True) == (not nan_as_zero) and _cudnn.takes(*given)
    assert len(_cudnn._seen) == 2
    _cudnn.refuse(*given[:2], None, _cudnn.SQUARE)
    assert not _cudnn.takes(*given)
