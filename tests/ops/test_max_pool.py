"""The pooling behind a ResNet's first convolution."""

import pytest
import torch
import torch.nn.functional as F

from htc_fast.ops.max_pool import max_pool
from tests.ops.matrix_cases import draw, is_channels_last, on_triton, wrong

MAPS = {
    "even": draw(2, 64, 10, 14),
    "odd": draw(2, 16, 9, 7),
    "NHWC": draw(1, 96, 6, 5).contiguous(memory_format=torch.channels_last),
    "a pixel": draw(3, 8, 1, 1),
    "negative, odd channels": draw(1, 19, 4, 3) - 10,
    "part of larger ones": draw(2, 20, 8, 9)[:, 2:12, 1:7, 2:],
    "none": draw(0, 8, 4, 4),
}


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_max_pool(name, dtype):
    x = MAPS[name].to(dtype)
    found = max_pool(x)
    assert torch.equal(found, F.max_pool2d(x, 3, 2, 1)) and is_channels_last(found)
    torch.library.opcheck(torch.ops.htc_fast.max_pool.default, (x,), test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("column", on_triton("max_pool"))
@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_triton(column, name, dtype):
    if reason := wrong(column, dtype):
        pytest.skip(reason)
    x = column.give(MAPS[name].to(dtype))
    found = torch.ops.htc_fast_triton.max_pool(x)
    assert torch.equal(found, F.max_pool2d(x, 3, 2, 1)) and is_channels_last(found)


@pytest.mark.parametrize("column", on_triton("max_pool"))
def test_nan_stays(column):
    x = draw(1, 8, 6, 6)
    x[0, 2, 3, 3] = torch.nan
    found = torch.ops.htc_fast_triton.max_pool(column.give(x)).cpu()
    assert torch.equal(found.isnan(), F.max_pool2d(x, 3, 2, 1).isnan()) and found.isnan().sum() == 4
