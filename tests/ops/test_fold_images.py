"""Images folded, and the 7x7 convolution over them."""

import pytest
import torch
import torch.nn.functional as F

from htc_fast.ops.convolution import convolution
from htc_fast.ops.fold_images import fold_images, fold_weight
from htc_fast.ops.reference import fold_images as reference
from tests.ops.matrix_cases import TOLERANCE, close, draw, is_channels_last, on_triton, wrong

IMAGES = {
    "NCHW": draw(2, 3, 36, 54),
    "NHWC": draw(2, 3, 36, 54).contiguous(memory_format=torch.channels_last),
    "odd": draw(2, 3, 37, 53),
    "part of larger ones": draw(2, 5, 40, 60)[:, 1:4, 2:39, 3:57],
    "a pixel": draw(1, 3, 1, 1),
    "none": draw(0, 3, 4, 5),
}
WEIGHT, BIAS = draw(64, 3, 7, 7, scale=0.1), draw(64)


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("relu", [True, False])
def test_it_is_the_convolution(name, relu):
    images = IMAGES[name].double()
    folded = fold_images(images, torch.float64)
    assert is_channels_last(folded) and folded.shape[1:] == (16, *(-(-side // 2) + 3 for side in images.shape[2:]))
    found = convolution(folded, fold_weight(WEIGHT.double()), BIAS.double(), relu=relu)
    wanted = F.conv2d(images, WEIGHT.double(), BIAS.double(), stride=2, padding=3)
    torch.testing.assert_close(found, wanted.relu() if relu else wanted)


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_operator_as_torch_wants_it(name, dtype):
    arguments = IMAGES[name], dtype
    assert fold_images(*arguments).dtype == dtype
    torch.library.opcheck(
        torch.ops.htc_fast.fold_images.default, arguments, test_utils=("test_schema", "test_faketensor")
    )


@pytest.mark.parametrize("column", on_triton("fold_images"))
@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_triton(column, name, dtype):
    if reason := wrong(column, dtype):
        pytest.skip(reason)
    images = column.give(IMAGES[name])
    found = torch.ops.htc_fast_triton.fold_images(images, dtype)
    assert torch.equal(found, reference.fold_images(images, dtype)) and is_channels_last(found)


@pytest.mark.parametrize("column", on_triton("stem"))
@pytest.mark.parametrize("name", [*IMAGES, "several lines of programs"])
@pytest.mark.parametrize("dtype, relu", [(torch.float32, True), (torch.float16, False), (torch.bfloat16, True)])
def test_triton_convolves(column, name, dtype, relu):
    if reason := wrong(column, dtype):
        pytest.skip(reason)
    images = IMAGES.get(name, draw(2, 3, 71, 150)).to(dtype)
    weight, bias = WEIGHT.to(dtype), BIAS.to(dtype)
    folded = column.give(fold_images(images, dtype))
    found = torch.ops.htc_fast_triton.stem(folded, *column.give((fold_weight(weight), bias)), relu).cpu()
    wanted = F.conv2d(images.double(), weight.double(), bias.double(), stride=2, padding=3)
    assert found.dtype == dtype and is_channels_last(found)
    tolerance = 1e-3 if column.device == "cuda" and dtype == torch.float32 else TOLERANCE[dtype]  # there in TF32
    close(found, wanted.relu() if relu else wanted, tolerance)
