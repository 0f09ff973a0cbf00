"""Geometry: the resize rule, boxes and masks that move together, and draws that a seed fixes."""

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from htc_fast.data.pictures import normalise_and_pad, preprocess, resize, resized_size
from htc_fast.data.transforms import DropEmpty, QuarterTurn, RandomCrop, Resize, cut, train_transform


def sample_of(boxes, height=48, width=64):
    """A sample of rectangles; labels number them."""
    masks = torch.zeros(len(boxes), height, width, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes):
        mask[y1:y2, x1:x2] = 1
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return {
        "image": tv_tensors.Image(image),
        "boxes": tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=(height, width)),
        "labels": torch.arange(len(boxes)),
        "masks": tv_tensors.Mask(masks),
        "semantic": tv_tensors.Mask(masks.amax(0) if len(boxes) else torch.zeros(height, width, dtype=torch.uint8)),
        "name": "a.jpg",
    }


def extents(masks):
    """The boxes around masks, by their pixels."""
    found = []
    for mask in masks:
        rows, columns = np.nonzero(mask.numpy())
        found.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    return torch.tensor(np.array(found), dtype=torch.float32)


@pytest.mark.parametrize(
    "height, width, short, long, expected",
    [
        (480, 640, 800, 1333, (800, 1067)),
        (640, 480, 800, 1333, (1067, 800)),
        (427, 640, 800, 1333, (800, 1199)),
        (640, 427, 800, 1333, (1199, 800)),
        (300, 900, 800, 1333, (444, 1333)),
        (600, 600, 256, 256, (256, 256)),
        (5, 5000, 800, 1333, (1, 1333)),
    ],
)
def test_resized_size(height, width, short, long, expected):
    assert resized_size(height, width, short, long) == expected


GREY = [
    [248, 194, 190, 207, 147, 26, 237],
    [21, 245, 211, 239, 45, 5, 157],
    [159, 60, 54, 236, 109, 46, 199],
    [82, 32, 205, 36, 7, 134, 222],
    [57, 146, 8, 149, 14, 15, 22],
]
# What cv2.resize(INTER_LINEAR) makes of GREY in OpenCV 5.0.
SMALLER = [[187, 200, 126, 138], [122, 77, 125, 142], [81, 78, 24, 76]]
LARGER_ROW = [46, 119, 231, 223, 212, 227, 183, 79, 34, 14, 106, 166]


def test_resize_is_opencv_bilinear():
    image = torch.tensor(GREY, dtype=torch.uint8).expand(3, 5, 7)
    smaller, larger = resize(image, (3, 4))[0].int(), resize(image, (9, 12))[0].int()
    # OpenCV rounds its weights to 11 bits: one grey level.
    assert (smaller - torch.tensor(SMALLER)).abs().max() <= 1
    assert (larger[2] - torch.tensor(LARGER_ROW)).abs().max() <= 1


def test_resize_moves_everything():
    out = Resize(24, 1000)(sample_of([[8, 4, 28, 20], [0, 0, 64, 48]], 48, 65))
    assert out["image"].shape == (3, 24, 33) and out["masks"].shape == (2, 24, 33)
    assert out["boxes"].canvas_size == (24, 33)
    x, y = 33 / 65, 24 / 48
    assert torch.allclose(out["boxes"].as_subclass(torch.Tensor)[0], torch.tensor([8 * x, 4 * y, 28 * x, 20 * y]))
    rows, columns = (torch.arange(24) * 2, (torch.arange(33) * (65 / 33)).long())
    source = sample_of([[8, 4, 28, 20]], 48, 65)["masks"][0]
    assert torch.equal(out["masks"][0].as_subclass(torch.Tensor), source[rows][:, columns].as_subclass(torch.Tensor))
    assert Resize(24)(sample_of([]))["masks"].shape == (0, 24, 32)


def test_multi_scale_and_own_size():
    torch.manual_seed(0)
    sizes = {Resize((16, 24), 40)(sample_of([]))["image"].shape[-2:] for _ in range(60)}
    assert {min(size) for size in sizes} == set(range(16, 25)) and max(max(size) for size in sizes) == 32
    torch.manual_seed(0)
    sides = [Resize(None, scale=(0.5, 1.5))(sample_of([]))["image"].shape[-2] for _ in range(60)]
    assert 24 <= min(sides) < 30 and 66 < max(sides) <= 72
    with pytest.raises(ValueError, match="must be positive"):
        Resize(0)


@pytest.mark.parametrize("turns", range(4))
def test_turns_move_boxes_with_masks(turns, monkeypatch):
    sample = sample_of([[8, 4, 28, 20], [30, 10, 54, 40]])
    turn = QuarterTurn()
    monkeypatch.setattr(turn, "make_params", lambda flat: {"turns": turns})
    out = turn(sample)
    assert torch.equal(out["boxes"].as_subclass(torch.Tensor), extents(out["masks"]))
    expected = torch.rot90(sample["image"].as_subclass(torch.Tensor), turns, (1, 2))
    assert torch.equal(out["image"].as_subclass(torch.Tensor), expected)
    assert out["semantic"].shape == out["masks"].shape[1:] == out["image"].shape[1:]


@pytest.mark.parametrize(
    "flips", [{"flip": 1.0}, {"flip": 0.0, "vertical_flip": 1.0}, {"flip": 1.0, "vertical_flip": 1.0}]
)
def test_flips_move_boxes_with_masks(flips):
    sample = sample_of([[8, 4, 28, 20], [30, 10, 54, 40]])
    out = train_transform(None, **flips)(sample)
    assert torch.equal(out["boxes"].as_subclass(torch.Tensor), extents(out["masks"]))
    assert not torch.equal(out["image"], sample["image"]) and not torch.equal(out["boxes"], sample["boxes"])


@pytest.mark.parametrize("seed", range(20))
def test_crop(seed):
    torch.manual_seed(seed)
    sample = sample_of([[2, 2, 12, 10], [50, 30, 62, 46], [0, 40, 6, 48]])
    out = RandomCrop(16)(sample)
    assert out["image"].shape == (3, 16, 16) and out["semantic"].shape == (16, 16)
    assert len(out["labels"]) >= 1 and len(out["masks"]) == len(out["boxes"]) == len(out["labels"])
    assert torch.equal(out["boxes"].as_subclass(torch.Tensor), extents(out["masks"]))


def test_crop_finds_what_is_rare():
    for seed in range(20):
        torch.manual_seed(seed)
        assert RandomCrop((20, 20))(sample_of([[900, 700, 910, 705]], 1000, 1200))["labels"].tolist() == [0]


def test_crop_of_small_and_of_empty_pictures():
    sample = sample_of([[2, 2, 12, 10]])
    assert RandomCrop(100)(sample) is sample
    assert RandomCrop((100, 32))(sample)["image"].shape == (3, 48, 32)
    assert RandomCrop(16)(sample_of([]))["masks"].shape == (0, 16, 16)


def test_cut_instances_get_the_box_of_what_is_left():
    sample = sample_of([[0, 0, 64, 48]])
    # An L: of its box's right part only the foot is there.
    sample["masks"][0, :40, 8:] = 0
    out = cut(sample, 32, 40, (16, 16))
    assert out["boxes"].tolist() == [[0, 8, 16, 16]]


def test_a_box_squeezed_to_nothing_is_dropped():
    sample = sample_of([[8, 4, 28, 20], [30, 10, 54, 40]])
    sample["boxes"][0, 2] = 8
    assert DropEmpty()(sample)["labels"].tolist() == [1]
    kept = sample_of([[8, 4, 28, 20], [30, 10, 54, 40]], height=50)
    kept["boxes"][0, 2], kept["boxes"][1, 3] = 8.5, 51
    assert DropEmpty()(kept) is kept, "half a pixel wide, or overhanging: torchvision's own would drop them"


def test_a_seed_fixes_a_sample():
    make = train_transform((16, 40), 64, crop=16, scale=(0.5, 2.0), vertical_flip=0.5, turn=True)
    outs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outs.append(make(sample_of([[8, 4, 28, 20], [30, 10, 54, 40]])))
    assert torch.equal(outs[0]["image"], outs[1]["image"]) and torch.equal(outs[0]["boxes"], outs[1]["boxes"])
    assert not torch.equal(outs[0]["image"], outs[2]["image"])


def test_preprocess():
    images = [np.full((30, 40, 3), 128, np.uint8), np.zeros((50, 20, 3), np.uint8)]
    images[1].flags.writeable = False
    batch, sizes, scales = preprocess(images, (60, 80), mean=(128, 0, 0), std=(1, 2, 4))
    assert batch.shape == (2, 3, 96, 96) and sizes.tolist() == [[60, 80], [80, 32]]
    assert scales.tolist()[0] == [2, 2, 2, 2] and scales[1].tolist() == pytest.approx([1.6] * 4)
    assert batch[0, :, 59, 79].tolist() == [0, 64, 32] and batch[1, :, 0, 0].tolist() == [-128, 0, 0]
    assert not batch[0, :, 60:].any() and not batch[0, :, :, 80:].any()
    assert batch.is_contiguous(memory_format=torch.channels_last)
    small = normalise_and_pad([torch.zeros(3, 33, 64, dtype=torch.uint8)], (0, 0, 0), (1, 1, 1))[0]
    assert small.shape == (1, 3, 64, 64)
