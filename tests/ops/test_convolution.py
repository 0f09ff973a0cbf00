"""Convolutions with what follows them: the definition, the Triton kernels, and who is asked on a GPU."""

import pytest
import torch
import torch.nn.functional as F

from htc_fast import ops
from htc_fast.ops import _backend, _cudnn
from htc_fast.ops import convolution as operator
from htc_fast.ops.convolution import convolution, lateral
from htc_fast.ops.reference import convolution as reference
from tests.ops.backends import TRITON, columns, convolutions_in
from tests.ops.matrix_cases import TOLERANCE, close, draw, is_channels_last, on_triton, wrong

LAST = {"memory_format": torch.channels_last}
NAMES = "stride", "padding", "dilation", "groups"
# channels, outputs, kernel, then the geometry
LAYERS = {
    "1x1": (16, 24, 1, ((1, 1), (0, 0), (1, 1), 1)),
    "3x3": (16, 24, 3, ((1, 1), (1, 1), (1, 1), 1)),
    "stem": (8, 16, 7, ((2, 2), (3, 3), (1, 1), 1)),
    "strided": (16, 24, 1, ((2, 2), (0, 0), (1, 1), 1)),
    "grouped": (16, 24, 3, ((1, 1), (1, 1), (1, 1), 8)),
    "dilated": (16, 24, 3, ((1, 2), (2, 0), (2, 3), 1)),
}


def layer(case, summed, dtype=torch.float32, size=(2, 9, 13)):
    """x, weight, bias, other and the geometry."""
    channels, outputs, kernel, geometry = LAYERS[case]
    x, weight = draw(size[0], channels, *size[1:]).to(dtype), draw(outputs, channels // geometry[3], kernel, kernel)
    weight, bias = (weight / 8).to(dtype), draw(outputs).to(dtype)
    shape = F.conv2d(x, weight, None, *geometry).shape
    return x, weight, bias, draw(*shape).to(dtype).contiguous(**LAST) if summed else None, geometry


@pytest.mark.parametrize("case", LAYERS)
@pytest.mark.parametrize("summed", [False, True], ids=["alone", "sum"])
@pytest.mark.parametrize("relu", [False, True], ids=["plain", "relu"])
def test_the_operator_is_its_definition_and_one_node(case, summed, relu):
    x, weight, bias, other, geometry = layer(case, summed)
    found = convolution(x, weight, bias, other, relu=relu, **dict(zip(NAMES, geometry)))
    want = F.conv2d(x, weight, bias, *geometry) + (other if summed else 0.0)
    assert torch.equal(found, want.relu() if relu else want) and is_channels_last(found)
    arguments = x, weight, bias, other, *geometry, relu
    torch.library.opcheck(
        torch.ops.htc_fast.convolution.default, arguments, test_utils=("test_schema", "test_faketensor")
    )


@pytest.mark.parametrize("column", on_triton("convolution"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", ["1x1", "3x3"])
@pytest.mark.parametrize("summed", [False, True], ids=["alone", "sum"])
@pytest.mark.parametrize("relu", [False, True], ids=["plain", "relu"])
def test_triton(column, dtype, case, summed, relu):
    if reason := wrong(column, dtype):
        pytest.skip(reason)
    *tensors, geometry = column.give(layer(case, summed, dtype))
    doubles = [None if one is None else one.double() for one in tensors]
    with convolutions_in("ieee"), ops.use_backend("triton"):
        found = torch.ops.htc_fast_triton.convolution_sum(*tensors, relu)
    close(found, reference.convolution(*doubles, *geometry, relu), TOLERANCE[dtype])
    assert found.dtype == dtype and is_channels_last(found)


# finer and coarser sizes: twice, odd, thrice and a bit, coarser is larger, one pixel
SIZES = {
    "twice": ((8, 12), (4, 6)),
    "odd": ((7, 13), (4, 7)),
    "no multiple": ((10, 23), (3, 7)),
    "larger": ((5, 6), (9, 17)),
    "one pixel": ((6, 5), (1, 1)),
}


@pytest.mark.parametrize("column", on_triton("lateral"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", SIZES)
def test_lateral_in_triton(column, dtype, case):
    if reason := wrong(column, dtype):
        pytest.skip(reason)
    fine, coarse = SIZES[case]
    tensors = draw(2, 19, *fine), draw(33, 19, 1, 1), draw(33), draw(2, 33, *coarse)
    tensors = [one.to(column.device, dtype) for one in tensors]
    with convolutions_in("ieee"):
        found = torch.ops.htc_fast_triton.lateral(*tensors)
    close(found, reference.lateral(*[one.double() for one in tensors]), TOLERANCE[dtype])
    assert found.dtype == dtype and is_channels_last(found)


@pytest.mark.parametrize("column", on_triton("lateral"))
def test_the_nearest_pixel_is_torch_s(column):
    """Of maps whose sizes no number divides, every pixel."""
    for height, width, other_height, other_width in ((41, 57, 13, 23), (100, 49, 99, 7), (30, 31, 77, 50)):
        coarser = torch.arange(other_height * other_width).float().view(1, 1, other_height, other_width)
        zeros = torch.zeros(1, 1, height, width), torch.zeros(1, 1, 1, 1), torch.zeros(1)
        found = torch.ops.htc_fast_triton.lateral(*column.give((*zeros, coarser))).cpu()
        assert torch.equal(found, F.interpolate(coarser, size=(height, width), mode="nearest"))


def test_lateral_is_its_definition_and_one_node():
    tensors = draw(2, 19, 8, 12), draw(33, 19, 1, 1), draw(33), draw(2, 33, 4, 6)
    found = lateral(*tensors)
    want = F.conv2d(*tensors[:3]) + tensors[3].repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(found, want, rtol=0, atol=0)
    torch.library.opcheck(torch.ops.htc_fast.lateral.default, tensors, test_utils=("test_schema", "test_faketensor"))


class Library:
    """cuDNN's two calls as they are defined, written down.

    reads_garbage  what is added is multiplied by zero, not left out
    """

    def __init__(self, monkeypatch, error=None, reads_garbage=False, capturing=False):
        self.calls, self.error, self.reads_garbage = [], error, reads_garbage
        monkeypatch.setattr(torch, "cudnn_convolution_relu", self.relu)
        monkeypatch.setattr(torch, "cudnn_convolution_add_relu", self.add_relu)
        monkeypatch.setattr(torch._C, "_has_cudnn", True)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
        monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
        monkeypatch.setattr(_cudnn, "_seen", {})

    def relu(self, x, weight, bias, *geometry):
        self.calls.append("relu")
        return F.conv2d(x, weight, bias, *geometry).relu()

    def add_relu(self, x, weight, other, alpha, bias, *geometry):
        self.calls.append("add_relu")
        if self.error is not None:
            raise self.error
        other = other * alpha if alpha or self.reads_garbage else torch.zeros_like(other)
        return (F.conv2d(x, weight, bias, *geometry) + other).nan_to_num(nan=0.0).relu()  # as its ReLU may do


def one_launch(case, summed, relu=True, dtype=torch.float32):
    """What a GPU would be asked for, and what it should give."""
    x, weight, bias, other, geometry = layer(case, summed, dtype)
    numbers = (*geometry[0], *geometry[1], *geometry[2], geometry[3])
    found = operator._in_one_launch(x, weight, bias, other, numbers, relu)
    return found, reference.convolution(x, weight, bias, other, *geometry, relu)


@pytest.mark.parametrize("case", LAYERS)
@pytest.mark.parametrize("summed", [False, True], ids=["alone", "sum"])
def test_a_relu_at_the_end_is_cudnn_s_once_it_was_seen_to_be_right(case, summed, monkeypatch):
    library = Library(monkeypatch)
    for _ in range(2):
        found, want = one_launch(case, summed)
        torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)
    own = "add_relu" if summed else "relu"
    assert library.calls == ["add_relu", own, own, own]  # a try of two calls, then one call each


@pytest.mark.parametrize("summed", [False, True], ids=["alone", "sum"])
def test_what_cudnn_does_not_take_is_left_to_others(summed, monkeypatch):
    library = Library(monkeypatch, RuntimeError("GET was unable to find an engine to execute this computation"))
    assert one_launch("stem", summed)[0] is None and one_launch("stem", summed)[0] is None
    assert library.calls == ["add_relu"]  # asked once
    Library(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(torch.OutOfMemoryError):
        one_launch("stem", summed)
    assert not _cudnn._seen


def test_a_library_that_reads_unfilled_memory_is_not_used(monkeypatch):
    Library(monkeypatch, reads_garbage=True)
    assert one_launch("stem", summed=False)[0] is None
    found, want = one_launch("stem", summed=True)  # where there is a sum, nothing is unfilled
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)


def test_nothing_is_tried_during_a_capture(monkeypatch):
    library = Library(monkeypatch, capturing=True)
    assert one_launch("stem", summed=False)[0] is None and not library.calls and not _cudnn._seen


def test_deterministic_algorithms_are_not_cudnn_s_fused_ones(monkeypatch):
    library = Library(monkeypatch)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    assert one_launch("stem", summed=False)[0] is None and not library.calls


@pytest.mark.parametrize("relu", [False, True], ids=["plain", "relu"])
def test_a_pointwise_convolution_in_16_bits_is_a_matrix_product(relu, monkeypatch):
    library = Library(monkeypatch)
    found, want = one_launch("1x1", False, relu, torch.bfloat16)
    torch.testing.assert_close(found, want, rtol=0.02, atol=0.02)
    assert is_channels_last(found) and not library.calls


def test_without_relu_the_heads_kernel_does_it_where_there_is_one(monkeypatch):
    Library(monkeypatch)
    asked = []
    monkeypatch.setattr(_backend, "in_triton", lambda x: asked.append(x.shape) and False)
    assert one_launch("3x3", False, relu=False)[0] is None and one_launch("1x1", True, relu=False)[0] is None
    assert len(asked) == 2
    assert one_launch("strided", False, relu=False)[0] is None and len(asked) == 2


@pytest.mark.parametrize("column", columns("convolution", (TRITON,)))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", LAYERS)
@pytest.mark.parametrize("summed", [False, True], ids=["alone", "sum"])
@pytest.mark.parametrize("relu", [False, True], ids=["plain", "relu"])
def test_on_a_gpu(column, case, dtype, summed, relu, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    *tensors, geometry = layer(case, summed, dtype)
    doubles = [None if one is None else one.double() for one in tensors]
    found = convolution(*column.give(tensors), relu=relu, **dict(zip(NAMES, geometry)))
    close(found.cpu(), reference.convolution(*doubles, *geometry, relu), TOLERANCE[dtype])
    assert found.dtype == dtype and is_channels_last(found)
