"""Instances drawn, cropped and shown in notebooks, with their picture and without."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from htc_fast import UserError, ops
from htc_fast.data.draw import draw
from htc_fast.data.instances import Instances


def picture(height=40, width=60):
    return np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)


def two(size=(40, 60), **more):
    masks = np.zeros((2, *size), dtype=bool)
    masks[0, 5:15, 10:30] = masks[1, 30:, 50:] = True
    masks[0, 8:10, 12:14] = False
    boxes = torch.tensor([[9.5, 5, 30, 15.25], [50, 30, 75, 44]])
    labels = torch.tensor([0, 1])
    return Instances(boxes, torch.tensor([0.9, 0.8]), labels, ops.encode(masks), size, ("a", "b"), **more)


def test_plot_draws_the_picture_that_is_given_or_known(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(picture()).save(path)
    expected = np.asarray(draw(picture(), two(), boxes=True))
    assert np.array_equal(np.asarray(two().plot(picture(), boxes=True)), expected)
    assert np.array_equal(np.asarray(two(source=path).plot(boxes=True)), expected)
    assert np.array_equal(np.asarray(two(source=picture()).plot(boxes=True)), expected)
    with pytest.raises(UserError, match=r"picture of these instances is not known: give it, such as plot\('street.jpg"):
        two().plot()
    with pytest.raises(ValueError, match="found in"):
        two(source=picture(40, 59)).plot()
    path.unlink()
    with pytest.raises(UserError, match="is missing"):
        two(source=path).plot()


def test_crops_are_the_pixels_of_each_box():
    first, second = two().crop(picture())
    assert np.array_equal(np.asarray(first), picture()[5:16, 9:30])
    assert np.array_equal(np.asarray(second), picture()[30:40, 50:60]), "what lies beyond the picture is left out"
    assert second.mode == "RGB" and two()[[]].crop(picture()) == []
    away = two()
    away.boxes[0] = torch.tensor([500.0, 500, 600, 600])
    assert away.crop(picture())[0].size == (1, 1), "no box has no pixel"


def test_crops_without_their_ground():
    white, _ = two(source=picture()).crop(background="white")
    pixels = np.asarray(white)
    assert pixels.shape == (11, 21, 3) and (pixels[-1] == 255).all() and (pixels[:, 0] == 255).all()
    assert (pixels[3:5, 3:5] == 255).all() and np.array_equal(pixels[:3, 1:], picture()[5:8, 10:30])
    assert np.asarray(two().crop(picture(), background=(1, 2, 3))[0])[3, 3].tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="unknown color"):
        two().crop(picture(), background="no colour")
    with pytest.raises(UserError, match="not known"):
        two().crop()


def shown(found):
    data = found._repr_png_()
    assert data.startswith(b"\x89PNG\r\n")
    return np.asarray(Image.open(io.BytesIO(data)))


def test_a_notebook_shows_what_plot_draws(tmp_path):
    assert np.array_equal(shown(two(source=picture())), np.asarray(two().plot(picture())))
    alone = shown(two())
    assert alone.shape == (40, 60, 3) and alone[0, 0].tolist() == [96, 96, 96] and alone[7, 20].tolist() != [96, 96, 96]
    assert np.array_equal(shown(two(source=tmp_path / "moved.jpg")), alone)
    assert np.array_equal(shown(two(source=picture(41, 60))), alone)
    assert (shown(two()[[]]) == 96).all()


def test_a_notebook_shows_large_pictures_small():
    size = 20_000, 10_000
    mask = ops.shift(ops.encode(np.ones((1, 4000, 4000), dtype=bool)), 4000, 12_000, size)
    found = Instances(ops.rle_to_box(mask), torch.ones(1), torch.zeros(1, dtype=torch.int64), mask, size)
    pixels = shown(found)
    assert pixels.shape == (1280, 640, 3) and pixels[760, 250].tolist() == [96, 96, 96]
    assert pixels[1000, 400].tolist() == pixels[1000, 300].tolist() != [96, 96, 96]
    assert found.boxes.tolist() == [[4000, 12_000, 8000, 16_000]], "it stays as it was"


def test_what_they_know_is_selected_with_them():
    found = two(mask_scores=torch.tensor([0.75, 0.5]), source="a.jpg")
    assert found[1].mask_scores.tolist() == [0.5] and found[[]].mask_scores.shape == (0,)
    assert found[::-1].mask_scores.tolist() == [0.5, 0.75] and found[0].source == "a.jpg"
    assert two()[0].mask_scores is None and two()[0].source is None
    assert "a.jpg" not in repr(found)
