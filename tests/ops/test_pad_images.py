"""Images cast and given channels of zeros."""

import pytest
import torch

from htc_fast.ops.pad_images import pad_images
from htc_fast.ops.reference import pad_images as reference
from tests.ops.matrix_cases import draw, is_channels_last, on_triton, wrong

IMAGES = {
    "NCHW": draw(2, 3, 37, 53),
    "NHWC": draw(2, 3, 37, 53).contiguous(memory_format=torch.channels_last),
    "part of larger ones": draw(2, 5, 40, 60)[:, 1:4, 2:39, 3:56],
    "none": draw(0, 3, 4, 5),
}


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("channels", [3, 4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_pad_images(name, channels, dtype):
    found = pad_images(IMAGES[name], channels, dtype)
    assert (
        found.dtype == dtype
        and is_channels_last(found)
        and found.shape == (*IMAGES[name].shape[:1], channels, *IMAGES[name].shape[2:])
    )
    assert torch.equal(found[:, :3], IMAGES[name].to(dtype)) and not found[:, 3:].any()
    arguments = IMAGES[name], channels, dtype
    if channels > 3:
        torch.library.opcheck(
            torch.ops.htc_fast.pad_images.default, arguments, test_utils=("test_schema", "test_faketensor")
        )


@pytest.mark.parametrize("column", on_triton("pad_images"))
@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("channels, dtype", [(4, torch.float32), (8, torch.float16), (8, torch.bfloat16)])
def test_triton(column, name, channels, dtype):
    if reason := wrong(column, dtype):
        pytest.skip(reason)
    images = column.give(IMAGES[name])
    found = torch.ops.htc_fast_triton.pad_images(images, channels, dtype)
    assert torch.equal(found, reference.pad_images(images, channels, dtype)) and is_channels_last(found)


def test_bad_arguments():
    with pytest.raises(ValueError, match="of at most 2 channels"):
        pad_images(IMAGES["NCHW"], 2, torch.float32)
    with pytest.raises(ValueError, match="power of two, got 6"):
        pad_images(IMAGES["NCHW"], 6, torch.float32)
