"""Index maps from run lengths: placed, painted, measured, resized; NumPy's bitmaps are what they are compared with."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from htc_fast import ops
from htc_fast.ops import _layers, _rle

BACKENDS = pytest.mark.parametrize("backend", ["cpp", "reference"])
SHAPES = [(1, 1), (5, 7), (33, 65), (70, 130), (64, 64), (1, 200), (200, 1)]
NOBODY = torch.empty(0, dtype=torch.int64)


def drawn(shape, count=9, seed=0):
    """Blocks and noise, one of them empty, one full."""
    random = np.random.default_rng(seed)
    bitmaps = (random.random((count, *shape)) < random.choice([0.02, 0.5], (count, 1, 1))).astype(np.uint8)
    for one in bitmaps[::2]:
        y, x = random.integers(0, shape[0]), random.integers(0, shape[1])
        one[:] = 0
        one[y : y + shape[0] // 2 + 1, x : x + shape[1] // 3 + 1] = 1
    bitmaps[1], bitmaps[2] = 0, 1
    return bitmaps


def read(bitmaps):
    return _rle.read("rles", [coco_mask.encode(np.asfortranarray(one)) for one in bitmaps])


def placed(bitmaps):
    layers, homes = [], []
    for one in bitmaps.astype(bool):
        home = next((i for i, layer in enumerate(layers) if not (layer & one).any()), len(layers))
        if not one.any():
            home = 0
        elif home == len(layers):
            layers.append(one.copy())
        else:
            layers[home] |= one
        homes.append(home)
    return homes


@BACKENDS
@pytest.mark.parametrize("shape", SHAPES)
def test_each_goes_where_it_is_free_and_is_found_again(shape, backend):
    bitmaps = drawn(shape)
    with ops.use_backend(backend):
        masks = read(bitmaps)
        homes = _layers.place(masks)
        assert homes.tolist() == placed(bitmaps)
        depth = int(homes.max()) + 1
        for dtype in (torch.int16, torch.int32):
            maps = _layers.paint(masks, shape, torch.arange(1, 10), layers=homes, maps=depth, dtype=dtype)
            wanted = np.zeros((depth, *shape), dtype=np.int64)
            for number, (home, one) in enumerate(zip(homes.tolist(), bitmaps), start=1):
                wanted[home][one > 0] = number
            assert maps.dtype == dtype and maps.numpy().tolist() == wanted.tolist()
            found = _layers.measure(maps, 10)
            assert found.areas[1:].tolist() == bitmaps.sum(axis=(1, 2), dtype=int).tolist() and found.areas[0] == 0
            assert found.layers[1:].tolist() == homes.tolist()
            boxes = [coco_mask.toBbox(coco_mask.encode(np.asfortranarray(one))) for one in bitmaps]
            assert found.boxes[1:].tolist() == [[x, y, x + w, y + h] for x, y, w, h in boxes]
            # Numbers at and above the length are nobody's.
            assert torch.equal(_layers.measure(maps, 4).areas, found.areas[:4])


@BACKENDS
@pytest.mark.parametrize("shape", SHAPES)
def test_one_over_the_other(shape, backend):
    bitmaps, order = drawn(shape, seed=1), torch.tensor([8, 0, 5, 0, 3])
    wanted = np.full(shape, 7, dtype=np.uint8)
    for value, k in enumerate(order.tolist(), start=250):
        wanted[bitmaps[k] > 0] = value
    with ops.use_backend(backend):
        found = _layers.paint(read(bitmaps), shape, torch.arange(250, 255), order=order, fill=7)
    assert found.dtype == torch.uint8 and (found[0].numpy() == wanted).all() and (wanted != 7).any()


@BACKENDS
def test_none(backend):
    with ops.use_backend(backend):
        masks = read(np.zeros((0, 4, 5), np.uint8))
        assert _layers.place(masks).shape == (0,)
        assert _layers.paint(masks, (4, 5), NOBODY, fill=3).tolist() == [[[3] * 5] * 4]
        assert _layers.paint(masks, (0, 5), NOBODY).shape == (1, 0, 5)
        assert _layers.measure(torch.zeros(0, 4, 5, dtype=torch.int16), 1).areas.tolist() == [0]
        assert _layers.take(torch.zeros(2, 4, 5, dtype=torch.uint8), NOBODY, NOBODY).shape == (2, 0, 0)


@BACKENDS
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_pixels_of_rows_and_columns(dtype, backend):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randint(0, 100, (3, 31, 70), generator=generator).to(dtype)
    rows, columns = torch.randint(0, 31, (90,), generator=generator), torch.randint(0, 70, (41,), generator=generator)
    rows = rows.sort().values
    with ops.use_backend(backend):
        found = _layers.take(maps.flip(2), rows, columns)
    assert found.dtype == dtype and torch.equal(found, maps.flip(2)[:, rows][:, :, columns])


def test_what_lies_outside_is_refused():
    masks, maps = read(drawn((4, 5))), torch.zeros(1, 4, 5, dtype=torch.int16)
    one = torch.zeros(1, dtype=torch.int64)
    for wrong in (
        lambda: _layers.paint(masks, (5, 4), one + 1, order=one),
        lambda: _layers.paint(masks, (4, 5), one + 1, order=one + 9),
        lambda: _layers.paint(masks, (4, 5), one + 1, layers=one + 1),
        lambda: _layers.take(maps, one + 4, one),
        lambda: _layers.take(maps, one, one - 1),
        lambda: _layers.take(maps.float(), one, one),
        lambda: _layers.measure(maps.byte(), 2),
    ):
        with pytest.raises(RuntimeError, match=r"paint_runs|take_pixels|measure_layers|index maps"):
            wrong()


@pytest.mark.parametrize("size", [(800, 1196), (1, 1), (13, 200), (100, 37), (99, 101)])
def test_resized_as_torchvision_has_it(size):
    from htc_fast.data.layers import resized

    maps = torch.arange(2 * 43 * 61, dtype=torch.int32).reshape(2, 43, 61)
    for given in (maps, maps.short(), maps.byte(), maps[0].byte(), maps.long(), maps % 2 > 0):
        wanted = F.resize(tv_tensors.Mask(given), list(size)).as_subclass(torch.Tensor)
        assert torch.equal(resized(given, size), wanted)
        window = resized(given, size, 3, 5, (20, 30))
        assert torch.equal(window, wanted[..., 3:23, 5:35])
