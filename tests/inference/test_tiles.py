"""Tiles: an object is found once and with all its pixels, wherever the seams run."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from htc_fast import UserError, ops
from htc_fast.data.instances import Instances
from htc_fast.data.windows import Windows, open_windows
from htc_fast.inference import tiles
from htc_fast.inference.predict import predict, stream_tiles
from htc_fast.inference.tiles import Tiling
from htc_fast.models.config import Model
from htc_fast.models.structures import Detections

NAMES = ("red", "blue")


def exact(pixels):
    """Every object of a picture: red numbers it, green is its class plus one, blue a hundredth of its score."""
    masks = [pixels[..., 0] == number for number in np.unique(pixels[..., 0]) if number]
    rle = ops.encode(np.array(masks)) if masks else []
    shown = [pixels[mask][0] for mask in masks]
    return Instances(
        boxes=ops.rle_to_box(rle) if rle else torch.zeros(0, 4),
        scores=torch.tensor([one[2] / 100 for one in shown]),
        labels=torch.tensor([int(one[1]) - 1 for one in shown], dtype=torch.int64),
        rle=rle,
        size=pixels.shape[:2],
        class_names=NAMES,
    )


def see(count, load):
    return ((number, exact(load(number))) for number in range(count))


def picture_of(objects, height=150, width=170):
    """objects: (mask [H, W], class, score in percent)"""
    pixels = np.zeros((height, width, 3), np.uint8)
    for number, (mask, label, score) in enumerate(objects, 1):
        pixels[mask] = number, label + 1, score
    return pixels


def disc(x, y, radius, height=150, width=170):
    rows, columns = np.mgrid[:height, :width]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def facts(found):
    return sorted(
        (one["counts"], round(score, 4), label, tuple(box))
        for one, score, label, box in zip(found.rle, found.scores.tolist(), found.labels.tolist(), found.boxes.tolist())
    )


def test_the_grid_is_even_and_leaves_no_gap():
    assert Tiling(64, 0.25).starts(64) == [0] and Tiling(64, 0.25).starts(20) == [0]
    assert Tiling(64, 0.25).starts(65) == [0, 1]
    assert Tiling(100, 0.2).starts(340) == [0, 80, 160, 240]
    assert Tiling(100, 0.2).starts(341) == [0, 60, 120, 181, 241]
    assert Tiling(1024).grid(20000, 20000)[-1] == (18976, 18976, 20000, 20000)
    assert len(Tiling(1024).grid(20000, 20000)) == 25 * 25
    assert Tiling(100, 0).starts(250) == [0, 75, 150]
    assert Tiling(100).grid(50, 150) == [(0, 0, 100, 50), (50, 0, 150, 50)]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 169), st.integers(0, 149), st.integers(0, 60), st.integers(0, 1), st.integers(1, 99)),
        min_size=1,
        max_size=7,
    ),
    st.sampled_from([0.15, 0.25, 0.6]),
)
def test_where_the_seams_run_does_not_matter(objects, overlap):
    """Discs of any size, many larger than the overlap and some than a tile, touching and cutting each other."""
    pixels = picture_of([(disc(x, y, radius), label, score) for x, y, radius, label, score in objects])
    # What lies on another may cut it in two, and each part is an object of its own.
    pixels = one_piece(pixels)
    expected = exact(pixels)
    found = tiles.detect(Windows.whole(pixels), Tiling(64, overlap), see)
    assert facts(found) == facts(expected)
    assert found.size == (150, 170) and found.class_names == NAMES
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


def one_piece(pixels):
    """Without the objects that are not in one piece in every tile."""
    for number in np.unique(pixels[..., 0]):
        rows, columns = np.nonzero(pixels[..., 0] == number)
        full = (columns.max() - columns.min() + 1) * (rows.max() - rows.min() + 1)
        if number and len(rows) < 0.75 * full:
            pixels[pixels[..., 0] == number] = 0
    return pixels


@pytest.mark.parametrize("place", range(30, 80, 3))
def test_a_small_object_anywhere_is_found_once(place):
    pixels = picture_of([(disc(place, 150 - place, 5), 1, 70)])
    assert facts(tiles.detect(Windows.whole(pixels), Tiling(64, 0.2), see)) == facts(exact(pixels))


def test_an_object_of_the_whole_picture_is_joined():
    pixels = picture_of([(np.ones((150, 170), bool), 0, 90), (disc(80, 70, 20), 1, 50), (disc(20, 20, 4), 0, 40)])
    found = tiles.detect(Windows.whole(pixels), Tiling(64, 0.25), see)
    assert facts(found) == facts(exact(pixels)) and len(found) == 3


def test_two_that_touch_on_a_seam_stay_two():
    left, right = np.zeros((150, 170), bool), np.zeros((150, 170), bool)
    left[40:60, :58], right[40:60, 58:] = True, True
    pixels = picture_of([(left, 0, 90), (right, 0, 90)])
    assert len(tiles.detect(Windows.whole(pixels), Tiling(64, 0.25), see)) == 2
    assert facts(tiles.detect(Windows.whole(pixels), Tiling(64, 0.25), see)) == facts(exact(pixels))


def rectangles(*several, label=0, score=0.9, size=(100, 100)):
    masks = np.zeros((len(several), *size), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, several):
        mask[y1:y2, x1:x2] = True
    boxes = torch.tensor(several, dtype=torch.float32).reshape(-1, 4)
    scores = torch.as_tensor(score).expand(len(several)).clone()
    return Instances(boxes, scores, torch.full((len(several),), label), ops.encode(masks), size, NAMES)


PAIR = [(0, 0, 100, 100), (80, 0, 180, 100)]  # two tiles side by side; what both see is 20 wide


@pytest.mark.parametrize(
    "first, second, boxes",
    [
        # Whole in both tiles, and not quite alike: the better one, as it is.
        (rectangles((82, 10, 98, 30), score=0.6), rectangles((2, 10, 17, 31), score=0.7), [[82, 10, 97, 31]]),
        # A sliver of what is whole on the right, though the sliver is the better one.
        (rectangles((90, 10, 100, 30), score=0.9), rectangles((10, 10, 40, 30), score=0.6), [[90, 10, 120, 30]]),
        # What is whole is faint beside the piece, and says nothing about it.
        (
            rectangles((70, 10, 100, 30), score=0.9),
            rectangles((3, 10, 60, 30), score=0.1),
            [[70, 10, 100, 30], [83, 10, 140, 30]],
        ),
        # Two pieces that are one.
        (rectangles((10, 10, 100, 30)), rectangles((0, 11, 50, 30)), [[10, 10, 130, 30]]),
        # Two pieces of two, one above the other.
        (rectangles((10, 10, 100, 30)), rectangles((0, 31, 50, 60)), [[10, 10, 100, 30], [80, 31, 130, 60]]),
        # A faint piece goes, and adds nothing.
        (rectangles((10, 10, 100, 30), score=0.9), rectangles((0, 11, 50, 40), score=0.2), [[10, 10, 100, 30]]),
        # Two of one tile are two, whatever they share.
        (rectangles((10, 10, 60, 30), (10, 10, 61, 31)), rectangles(), [[10, 10, 60, 30], [10, 10, 61, 31]]),
        # A small one on a large one.
        (rectangles((10, 10, 100, 80)), rectangles((3, 20, 12, 30)), [[10, 10, 100, 80], [83, 20, 92, 30]]),
        # A long one in a large one: what is alike is joined, though each piece of one lies in both of the other.
        (
            rectangles((10, 10, 100, 90), (70, 40, 100, 60)),
            rectangles((0, 10, 50, 90), (0, 40, 30, 60)),
            [[10, 10, 130, 90], [70, 40, 110, 60]],
        ),
        # One that is whole, across a piece that goes on: the left tile sees that piece as another one.
        (
            rectangles((10, 40, 100, 50), (75, 30, 97, 60)),
            rectangles((0, 40, 24, 50), (0, 30, 17, 60)),
            [[10, 40, 104, 50], [75, 30, 97, 60]],
        ),
        # Of two classes.
        (rectangles((82, 10, 97, 30)), rectangles((2, 10, 17, 30), label=1), [[82, 10, 97, 30], [82, 10, 97, 30]]),
    ],
)
def test_what_two_tiles_say(first, second, boxes):
    found = tiles.join([first, second], PAIR, (100, 180))
    assert sorted(found.boxes.tolist()) == sorted(boxes)
    assert torch.equal(ops.rle_to_box(found.rle), found.boxes)
    assert all(one["size"] == [100, 180] for one in found.rle)


class Bright(nn.Module):
    """Finds every rectangle of one colour in a picture as it is, exactly."""

    def __init__(self):
        super().__init__()
        self.config = Model(name="bright", num_classes=2, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), detections=9)
        self.weight = nn.Parameter(torch.zeros(1))
        self.sizes = []

    def detect(self, images, image_sizes):
        every = [
            exact(one[:, : h.item(), : w.item()].byte().permute(1, 2, 0).numpy())
            for one, (h, w) in zip(images, image_sizes)
        ]
        self.sizes += image_sizes.tolist()
        boxes, scores, labels = torch.zeros(len(images), 9, 4), torch.zeros(len(images), 9), -torch.ones(len(images), 9)
        for n, one in enumerate(every):
            boxes[n, : len(one)], scores[n, : len(one)], labels[n, : len(one)] = one.boxes, one.scores, one.labels
        count = torch.tensor([len(one) for one in every], dtype=torch.int32)
        order = scores.argsort(dim=1, descending=True)
        boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
        return Detections(
            boxes, scores.gather(1, order), labels.gather(1, order).long(), torch.ones(len(images), 9, 28, 28), count
        )


def scene():
    masks = np.zeros((4, 150, 170), bool)
    for mask, (x1, y1, x2, y2) in zip(
        masks, [(5, 5, 30, 30), (50, 50, 70, 72), (80, 10, 169, 20), (100, 60, 140, 149)]
    ):
        mask[y1:y2, x1:x2] = True
    return picture_of([(mask, place % 2, 90 - place) for place, mask in enumerate(masks)])


@pytest.mark.parametrize("batch_size, workers", [(1, 0), (4, 0), (3, 3)])
def test_predict(tmp_path, batch_size, workers):
    pixels, path = scene(), tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    model = Bright()
    options = {"size": (64, 64), "batch_size": batch_size, "workers": workers, "score_threshold": 0.1}
    found = predict(model, [path, pixels[:64, :64], pixels], tile=64, overlap=0.25, class_names=NAMES, **options)
    assert [facts(one) for one in found] == [facts(exact(pixels)), facts(exact(pixels[:64, :64])), facts(exact(pixels))]
    assert len(model.sizes) == 2 * 12 + 1 and model.sizes[0] == [64, 64]


def test_pictures_in_bands_are_opened_and_closed(tmp_path):
    pixels, path = scene(), tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    opened = [open_windows(path, small=0), Windows.whole(pixels)]
    results = dict(stream_tiles(Bright(), [1, 0], opened.__getitem__, Tiling(64), size=(64, 64), class_names=NAMES))
    assert facts(results[0]) == facts(results[1]) == facts(exact(pixels))
    assert opened[0].kind == "PNG" and opened[0]._read.file.closed


def test_a_damaged_picture_is_its_error_and_the_next_goes_on(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 2, (150, 170, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-3000] + b"\0" * 2988 + b"\0\0\0\0IEND\xaeB`\x82")
    found = dict(
        stream_tiles(
            Bright(), [0, 1], lambda i: open_windows([path, scene()][i], small=0), Tiling(64), workers=2, size=(64, 64)
        )
    )
    assert "damaged" in str(found[0]) and isinstance(found[0], UserError) and len(found[1]) == 4
    with pytest.raises(UserError, match="is missing"):
        predict(Bright(), tmp_path / "b.png", tile=64)


def test_a_full_tile_is_said_and_a_full_picture_is_none(capsys):
    model = Bright()
    model.config = replace(model.config, detections=3)
    predict(model, scene(), tile=64, size=(64, 64))
    assert "a picture has 3 objects" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "tile, overlap, said", [(8, 0.2, "--tile takes"), (64, 0.95, "--overlap takes"), (64, True, "True")]
)
def test_options_that_make_no_sense(tile, overlap, said):
    with pytest.raises(UserError, match=said):
        predict(Bright(), scene(), tile=tile, overlap=overlap)


def test_resized_instances():
    small = rectangles((20, 40, 60, 80)).resized((50, 25))
    assert small.boxes.tolist() == [[5, 20, 15, 40]] and ops.rle_to_box(small.rle).tolist() == [[5, 20, 15, 40]]
    assert small.size == (50, 25) and small.masks.shape == (1, 50, 25)
