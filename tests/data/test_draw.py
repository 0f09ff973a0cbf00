"""Overlays: drawn where the instances are, at every size, also of nothing."""

import numpy as np
import pytest
import torch
from PIL import Image

from htc_fast.data import runs
from htc_fast.data.draw import draw, side_by_side
from htc_fast.data.instances import Instances
from htc_fast.data.masks import from_bitmaps


def two(height=60, width=100):
    masks = np.zeros((2, height, width), dtype=np.uint8)
    masks[0, height // 4 : height // 2, width // 4 : width // 2] = 1
    masks[1, -4:, -4:] = 1
    boxes = torch.tensor(
        [[width // 4, height // 4, width // 2, height // 2], [width - 4, height - 4, width, height]]
    ).float()
    return Instances(
        boxes, torch.tensor([0.9, 0.3]), torch.tensor([0, 1]), from_bitmaps(masks), (height, width), ["a", "b"]
    )


def four():
    """Four squares of 20 pixels, of three classes."""
    masks = np.zeros((4, 30, 120), dtype=np.uint8)
    for i, mask in enumerate(masks):
        mask[5:25, 30 * i + 5 : 30 * i + 25] = 1
    boxes = torch.tensor([[30 * i + 5, 5, 30 * i + 25, 25] for i in range(4)]).float()
    return Instances(boxes, torch.ones(4), torch.tensor([0, 1, 0, 2]), from_bitmaps(masks), (30, 120), ["a", "b", "c"])


@pytest.mark.parametrize("height, width", [(60, 100), (1, 1), (7, 500), (600, 800)])
def test_draw(height, width):
    pixels = np.full((height, width, 3), 128, np.uint8)
    picture = draw(pixels, two(height, width) if height > 8 else two(height, width)[:0], boxes=True)
    assert picture.size == (width, height) and picture.mode == "RGB"
    assert (pixels == 128).all(), "the input stays as it is"


def test_colour_lies_on_the_mask():
    pixels = np.full((60, 100, 3), 128, np.uint8)
    changed = (np.asarray(draw(pixels, two(), labels=False)) != 128).any(axis=2)
    assert changed[18:28, 28:48].all() and changed[57:, 97:].all()
    assert not changed[40:50].any() and not changed[:, 60:90].any()
    with_labels = (np.asarray(draw(pixels, two())) != 128).any(axis=2)
    assert with_labels.sum() > changed.sum()


def hues(instances, fill=200):
    """The hue in the middle of each box, over grey."""
    pixels = np.full((*instances.size, 3), fill, np.uint8)
    hue = np.asarray(draw(pixels, instances, labels=False).convert("HSV"))[..., 0]
    return [int(hue[int(y1 + y2) // 2, int(x1 + x2) // 2]) for x1, y1, x2, y2 in instances.boxes.tolist()]


def test_a_class_has_one_colour_in_every_picture():
    truth = four()
    prediction = truth[[3, 0, 2]]
    a, b, again, c = hues(truth)
    assert abs(a - again) <= 2 and min(abs(a - b), abs(b - c), abs(a - c)) > 20
    assert np.abs(np.subtract(hues(prediction), [c, a, a])).max() <= 2
    assert abs(hues(truth[2:3])[0] - a) <= 2, "also where it is alone in the picture"


def test_instances_of_the_only_class_are_told_apart():
    nuclei = four()
    nuclei.labels, nuclei.class_names = torch.zeros(4, dtype=torch.int64), ["nucleus"]
    assert min(np.diff(sorted(hues(nuclei)))) > 10


def test_zoom_and_wrong_size():
    pixels = np.full((60, 100, 3), 128, np.uint8)
    big = np.asarray(draw(pixels, two(), labels=False, zoom=2.5))
    assert big.shape == (150, 250, 3) and (big[45:70, 70:120] != 128).any(axis=2).all()
    with pytest.raises(ValueError, match="found in"):
        draw(pixels[:50], two())


def test_an_empty_mask_is_no_trouble():
    found = two()
    found.rle[0] = from_bitmaps(np.zeros((1, 60, 100), np.uint8))[0]
    drawn = [
        np.asarray(draw(Image.new("RGB", (100, 60)), some, labels=False)) for some in (found, found[1:], found[:0])
    ]
    assert np.array_equal(drawn[0], drawn[1]) and drawn[0].any() and not drawn[2].any()


def test_side_by_side():
    pixels = np.full((60, 100, 3), 128, np.uint8)
    tall = np.full((80, 50, 3), 128, np.uint8)
    sheet = side_by_side([(pixels, two(), two()), (tall, two(80, 50)[:0], two(80, 50))], width=200)
    assert sheet.size == (408, 28 + 120 + 8 + 320)
    with pytest.raises(ValueError, match="no pictures"):
        side_by_side([])


def test_only_the_box_around_a_mask_is_looked_at(monkeypatch):
    seen, window = [], runs.window
    monkeypatch.setattr(runs, "window", lambda rle, box: seen.append(list(box)) or window(rle, box))
    draw(np.zeros((3000, 4000, 3), np.uint8), two(3000, 4000), labels=False)
    assert seen == [[1000, 750, 2000, 1500], [3996, 2996, 4000, 3000]]


def test_a_large_picture_is_made_small_without_its_bitmaps(monkeypatch):
    large = four().resized((600, 2400))
    seen, window = [], runs.window
    monkeypatch.setattr(runs, "window", lambda rle, box: seen.append(box[3]) or window(rle, box))
    picture = draw(np.full((600, 2400, 3), 255, np.uint8), large, labels=False, zoom=0.05)
    assert seen == [25] * 4, "of the small picture"
    same = draw(np.full((30, 120, 3), 255, np.uint8), four(), labels=False)
    assert picture.size == (120, 30) and np.array_equal(np.asarray(picture), np.asarray(same))
