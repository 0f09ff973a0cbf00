"""paste_masks and encode_masks against the reference, grid_sample and pycocotools."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from htc_fast import ops

BACKENDS = ["cpp", "reference"]


def draw(count=20, size=(28, 28), image=(120, 170), seed=0, smooth=True):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(count, *size, generator=generator)
    if smooth and min(size) > 6:
        masks = F.avg_pool2d(masks[:, None], 7, 1, 3, count_include_pad=False)[:, 0] * 3 - 1
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([image[1], image[0]]) - 20
    extent = torch.rand(count, 2, generator=generator) ** 2 * 150
    return masks.clamp(0, 1), torch.cat([corner, corner + extent], dim=1)


def encoded(pasted: torch.Tensor) -> list[bytes]:
    return [coco_mask.encode(np.asfortranarray(one.numpy().astype(np.uint8)))["counts"] for one in pasted]


@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_grid_sample(backend):
    masks, boxes = draw(40)
    height, width = 120, 170
    y = (torch.arange(height) + 0.5 - boxes[:, 1:2]) / (boxes[:, 3:] - boxes[:, 1:2]) * 2 - 1
    x = (torch.arange(width) + 0.5 - boxes[:, 0:1]) / (boxes[:, 2:3] - boxes[:, 0:1]) * 2 - 1
    grid = torch.stack([x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], dim=3)
    value = F.grid_sample(masks[:, None], grid, align_corners=False)[:, 0]
    with ops.use_backend(backend):
        got = ops.paste_masks(masks, boxes, (height, width))
    clear = (value - 0.5).abs() > 1e-5
    assert clear.float().mean() > 0.999 and got.any()
    assert torch.equal(got[clear], (value >= 0.5)[clear])


@settings(max_examples=80, deadline=None)
@given(
    st.tuples(st.integers(1, 33), st.integers(1, 33)),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.integers(0, 10_000),
    st.sampled_from([-0.5, 0.0, 0.2, 0.5, 0.99, 1.0]),
    st.booleans(),
)
def test_drawn_cases_equal_reference_and_pycocotools(size, image, seed, threshold, smooth):
    masks, boxes = draw(4, size, image, seed, smooth)
    if seed % 3 == 0:
        boxes = boxes.round()
    if seed % 5 == 0:
        masks = masks.round()
    with ops.use_backend("reference"):
        want = ops.paste_masks(masks, boxes, image, threshold)
    assert torch.equal(ops.paste_masks(masks, boxes, image, threshold), want)
    got = ops.encode_masks(masks, boxes, image, threshold)
    assert [one["counts"] for one in got] == encoded(want)
    assert all(one["size"] == list(image) for one in got)


@pytest.mark.parametrize("backend", BACKENDS)
def test_whole_image_and_round_trip(backend):
    masks, image = torch.ones(2, 28, 28), (37, 53)
    boxes = torch.tensor([[-400.0, -300, 500, 400], [10, 5, 20, 25]])
    with ops.use_backend(backend):
        pasted, rle = ops.paste_masks(masks, boxes, image), ops.encode_masks(masks, boxes, image)
    assert pasted[0].all() and pasted[1].sum() == 200 and pasted[1, 5:25, 10:20].all()
    decoded = coco_mask.decode(rle)
    assert torch.equal(torch.from_numpy(decoded).permute(2, 0, 1).bool(), pasted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_boxes_without_pixels_are_empty(backend):
    masks, image = torch.ones(7, 14, 20), (30, 40)
    boxes = torch.tensor(
        [
            [torch.nan, 0, 10, 10],
            [0, 0, torch.inf, 10],
            [5, 5, 5, 20],
            [20, 5, 10, 20],
            [100, 5, 120, 20],
            [-1e30, -1e30, -1e29, 1e30],
            [3.1, 3.1, 3.2, 9],
        ]
    )
    with ops.use_backend(backend):
        assert not ops.paste_masks(masks, boxes, image).any()
        assert {one["counts"] for one in ops.encode_masks(masks, boxes, image)} == {encoded(torch.zeros(1, 30, 40))[0]}


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_to_do(backend):
    masks, boxes = draw(0)
    with ops.use_backend(backend):
        assert ops.paste_masks(masks, boxes, (9, 7)).shape == (0, 9, 7)
        assert ops.encode_masks(masks, boxes, (9, 7)) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_and_strides(dtype):
    masks, boxes = draw(6)
    want = ops.paste_masks(masks.to(dtype).float(), boxes, (120, 170))
    assert torch.equal(ops.paste_masks(masks.to(dtype), boxes, (120, 170)), want)
    strided = masks.transpose(1, 2).contiguous().transpose(1, 2)
    assert ops.encode_masks(strided, boxes, (120, 170)) == ops.encode_masks(masks, boxes, (120, 170))


def test_more_pixels_than_32_bits_count():
    # 90 masks of 24 million pixels: encoding needs none of them in memory.
    masks, boxes = draw(90, image=(200, 300))
    rle = ops.encode_masks(masks, boxes * 20, (4000, 6000))
    areas = coco_mask.area(rle)
    assert len(rle) == 90 and areas.max() > 1_000_000


def test_opcheck_compile_and_export():
    masks, boxes = draw(5)
    torch.library.opcheck(torch.ops.htc_fast.paste_masks.default, (masks, boxes, 120, 170, 0.5))
    torch.library.opcheck(torch.ops.htc_fast.encode_masks.default, (masks, boxes, 120, 170, 0.5))
    want = ops.paste_masks(masks, boxes, (120, 170))
    compiled = torch.compile(lambda m, b: ~ops.paste_masks(m, b, (120, 170)), backend="eager", fullgraph=True)
    assert torch.equal(~compiled(masks, boxes), want)

    class Paste(torch.nn.Module):
        def forward(self, masks, boxes):
            return ops.paste_masks(masks, boxes, (120, 170))

    assert torch.equal(torch.export.export(Paste(), (masks, boxes)).module()(masks, boxes), want)


def test_errors():
    masks, boxes = draw(4)
    for function in (ops.paste_masks, ops.encode_masks):
        with pytest.raises(ValueError, match=r"boxes must be \[K, 4\] = \[4, 4\]"):
            function(masks, boxes[:3], (10, 10))
        with pytest.raises(ValueError, match=r"masks must be \[K, h, w\]"):
            function(masks[:, None], boxes, (10, 10))
        with pytest.raises(TypeError, match="floating point"):
            function(masks.bool(), boxes, (10, 10))
        with pytest.raises(ValueError, match="image_size"):
            function(masks, boxes, (-1, 10))
        with pytest.raises(ValueError, match="image_size must be height, width"):
            function(masks, boxes, 10)
        with pytest.raises(TypeError, match="masks must be a tensor"):
            function(masks.tolist(), boxes, (10, 10))
