"""Index maps instead of bitmaps: the same pixels, the same draws, the same batches."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from htc_fast.data import CocoDataset, runs, train_transform
from htc_fast.data.annotations import Annotation, Picture
from htc_fast.data.layers import to_layers
from htc_fast.data.loader import Collate
from htc_fast.data.masks import run_lengths
from htc_fast.data.numbered import bitmap, extents, layer_of, select, visible_area
from htc_fast.data.semantic import Derived
from htc_fast.data.transforms import RandomCrop
from tests.data.builder import CATEGORIES, image, instance, write


def rles_of(bitmaps: np.ndarray) -> list[dict]:
    return [coco_mask.encode(np.asfortranarray(one)) for one in bitmaps]


def bits(sample: dict) -> Tensor:
    """A sample's masks as bitmaps [G, H, W], whatever form they have."""
    masks = sample["masks"].as_subclass(Tensor)
    if "numbers" not in sample:
        return masks.bool()
    return torch.stack([(masks == number).any(0) for number in sample["numbers"]]) if len(sample["labels"]) else (
        torch.zeros(0, *masks.shape[1:], dtype=torch.bool)
    )  # fmt: skip


def noisy(count: int, height: int = 50, width: int = 70, share: float = 0.02, seed: int = 0) -> np.ndarray:
    """Bitmaps that overlap here and there, some of them empty or full."""
    random = np.random.default_rng(seed)
    bitmaps = (random.random((count, height, width)) < share).astype(np.uint8)
    for one in bitmaps[: count // 2]:
        y, x = random.integers(0, height), random.integers(0, width)
        one[y : y + 12, x : x + 9] = 1
    bitmaps[0], bitmaps[-1] = 0, 1
    return bitmaps


def test_every_instance_is_whole_in_one_layer():
    bitmaps = noisy(40)
    layers = to_layers(rles_of(bitmaps), 50, 70)
    assert layers.dtype == np.int16 and layers.shape[1:] == (50, 70) and 2 <= len(layers) < 40
    homes = layer_of({"masks": torch.from_numpy(layers), "numbers": torch.arange(1, 41)}).numpy()
    for index, one in enumerate(bitmaps):
        assert ((layers[homes[index]] == index + 1) == (one > 0)).all()
        assert (layers == index + 1).sum() == one.sum()


def test_the_first_layer_with_room_takes_it():
    bitmaps = np.zeros((4, 4, 6), dtype=np.uint8)
    bitmaps[0, :2, :3] = bitmaps[1, 1:3, 2:4] = bitmaps[2, :, 5] = bitmaps[3, 3:, :] = 1
    wanted = [
        [[1, 1, 1, 0, 0, 3], [1, 1, 1, 0, 0, 3], [0, 0, 0, 0, 0, 3], [0, 0, 0, 0, 0, 3]],
        [[0, 0, 0, 0, 0, 0], [0, 0, 2, 2, 0, 0], [0, 0, 2, 2, 0, 0], [4, 4, 4, 4, 4, 4]],
    ]
    assert to_layers(rles_of(bitmaps), 4, 6).tolist() == wanted


def test_one_pixel_between_two_that_fit():
    bitmaps = np.zeros((3, 40, 60), dtype=np.uint8)
    bitmaps[0, :, :30] = bitmaps[1, :, 30:] = bitmaps[2, 7:, 30:] = 1
    bitmaps[2, 3, 29] = 1  # the one pixel that the first two have between them and the third, beside what it covers
    layers = to_layers(rles_of(bitmaps), 40, 60)
    assert len(layers) == 2 and (layers[0] == np.where(np.arange(60) < 30, 1, 2)).all()
    assert ((layers[1] == 3) == (bitmaps[2] > 0)).all()


def test_all_on_each_other_and_none():
    bitmaps = np.ones((5, 3, 4), dtype=np.uint8)
    assert (to_layers(rles_of(bitmaps), 3, 4) == np.arange(1, 6)[:, None, None]).all()
    assert to_layers([], 3, 4).tolist() == np.zeros((1, 3, 4)).tolist()


def test_more_instances_than_16_bits_count(monkeypatch):
    bitmaps = np.zeros((1, 1, 2), dtype=np.uint8)
    bitmaps[0, 0, 1] = 1
    layers = to_layers(rles_of(bitmaps) * 3 + [coco_mask.encode(np.asfortranarray(bitmaps[0] * 0))] * 32765, 1, 2)
    assert layers.dtype == np.int32 and layers[:, 0, 1].tolist() == [1, 2, 3]


def test_runs_are_what_pycocotools_decodes():
    for one in noisy(12, 31, 17, 0.3):
        runs = run_lengths(coco_mask.encode(np.asfortranarray(one))["counts"])
        flat = np.repeat(np.arange(len(runs)) % 2, runs)
        assert len(runs) % 2 == 0 and (flat == one.T.reshape(-1)).all()


def test_questions_have_the_same_answers():
    bitmaps = noisy(30)
    rows = torch.arange(30).flip(0)
    plain = {"masks": torch.from_numpy(bitmaps)[rows]}
    layered = {"masks": torch.from_numpy(to_layers(rles_of(bitmaps), 50, 70)), "numbers": rows + 1}
    windows = [{**one, "masks": one["masks"][:, 10:14, 5:12]} for one in (plain, layered)]
    seen, same = (visible_area(one) for one in windows)
    assert torch.equal(seen, same) and 5 < (seen > 0).sum() < 25
    some = torch.arange(30) % 3 > 0
    assert torch.equal(extents(plain, some), extents(layered, some)) and torch.equal(extents(plain), extents(layered))
    assert all(torch.equal(bitmap(plain, g), bitmap(layered, g)) for g in range(30))


def content(count: int = 60) -> dict:
    """Two pictures with many rectangles, some of them of one size and place, and a crowd."""
    random = np.random.default_rng(1)
    made = []
    for key, width, height in ((1, 96, 64), (2, 50, 120)):
        for number in range(count):
            w, h = random.integers(3, 30, 2)
            x, y = random.integers(0, width - w), random.integers(0, height - h)
            made.append(instance(key, CATEGORIES[number % 3]["id"], int(x), int(y), int(w), int(h)))
        made += made[-5:]
        made.append(instance(key, 7, 0, 0, 40, 30, iscrowd=1))
    return {"images": [image(1, 96, 64), image(2, 50, 120)], "annotations": made, "categories": CATEGORIES}


@pytest.fixture
def both(tmp_path):
    """The same pictures with bitmaps and with layers; their transform is set by the test."""
    root = write(tmp_path, content())
    return [CocoDataset(root, "val", semantic="derive", layered=layered) for layered in (False, True)]


def test_a_sample_and_its_derived_map(both):
    for plain, layered in zip(*both):
        assert layered["masks"].dtype == torch.int16 and len(layered["masks"]) < len(plain["masks"]) / 2
        assert torch.equal(bits(plain), bits(layered)) and torch.equal(plain["semantic"], layered["semantic"])
        assert plain["semantic"].unique().tolist() == [0, 1, 2, 3, 255]
        assert layered["numbers"].tolist() == list(range(1, 66)) and "numbers" not in plain


TRANSFORMS = {
    "resized": {"short": 45, "long": 70},
    "drawn sizes": {"short": (30, 90), "long": 150, "scale": (0.5, 1.5), "vertical_flip": 0.5},
    "small crops": {"short": None, "crop": (13, 17), "turn": True},
    "everything": {"short": (40, 80), "long": 120, "crop": 24, "scale": (0.7, 1.3), "turn": True, "vertical_flip": 0.5},
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_seed_gives_the_same_batches(both, name):
    for dataset in both:
        dataset.transform = train_transform(**TRANSFORMS[name])
    dropped = 0
    for seed in range(6):
        samples = []
        for dataset in both:
            torch.manual_seed(seed)
            samples.append([dataset[0], dataset[1]])
        for plain, layered in zip(*samples):
            for key in ("image", "boxes", "labels", "semantic"):
                assert torch.equal(plain[key], layered[key]), key
            assert torch.equal(bits(plain), bits(layered))
            dropped += 65 - len(plain["labels"])
        batches = [Collate()(some) for some in samples]
        given, targets = batches[0][2], batches[1][2]
        assert torch.equal(batches[0][0], batches[1][0])
        for key in ("boxes", "labels", "semantic"):
            assert torch.equal(getattr(given, key), getattr(targets, key)), key
        assert targets.masks.shape[1] % 2 == 0 and targets.masks.shape[2:] == given.masks.shape[2:]
        assert targets.numbers.shape == targets.layers.shape == given.labels.shape
        for n, row in enumerate(given.labels.tolist()):
            for g in range(len(row)):
                own = targets.masks[n, targets.layers[n, g]] == targets.numbers[n, g]
                assert torch.equal(own & (targets.numbers[n, g] > 0), given.masks[n, g].bool())
    assert "crop" not in TRANSFORMS[name] or dropped > 50


def test_without_instances(tmp_path):
    dataset = CocoDataset(write(tmp_path, {**content(), "annotations": []}), "val", semantic="derive", layered=True)
    sample = RandomCrop(20)(dataset[0])
    assert sample["masks"].shape == (1, 20, 20) and sample["numbers"].shape == (0,)
    targets = Collate()([sample])[2]
    assert targets.masks.shape == (1, 2, 32, 32) and not targets.numbers.any() and targets.labels.eq(-1).all()


def test_rows_go_and_numbers_stay(both):
    sample = both[1][0]
    some = select(sample, torch.arange(65) % 4 == 1)
    assert some["numbers"].tolist() == list(range(2, 66, 4)) and len(some["labels"]) == len(some["boxes"]) == 16
    assert torch.equal(bits(some), bits(both[0][0])[1::4]) and some["masks"].dtype == sample["masks"].dtype
    # What no row asks for is gone from the maps, and so are maps that nobody lies in.
    assert set(some["masks"].unique().tolist()) <= {0, *range(2, 66, 4)} and some["masks"].any(dim=(1, 2)).all()


def test_int32_among_int16(both):
    samples = [both[1][0], both[1][1]]
    samples[1]["masks"] = samples[1]["masks"].int()
    targets = Collate()(samples)[2]
    assert targets.masks.dtype == torch.int32 and int(targets.masks.max()) == 65


def test_derived_maps_are_painted_as_bitmaps_say():
    bitmaps, random = noisy(24, share=0.01, seed=3)[:-1], np.random.default_rng(5)
    labels, crowds = random.integers(0, 6, 23), noisy(4, share=0.1, seed=4)[:3]
    wanted = np.full((50, 70), 6, dtype=np.uint8)
    wanted[crowds.any(axis=0)] = 255
    for k in np.argsort(-bitmaps.sum(axis=(1, 2), dtype=int), kind="stable"):
        wanted[bitmaps[k] > 0] = labels[k]
    given = [Annotation(0, (0, 0, 1, 1), rle, None, True, False) for rle in rles_of(crowds)]
    found = Derived(6).read(Picture(1, "a", 50, 70, given), runs.read(rles_of(bitmaps)), labels)
    assert found.dtype == np.uint8 and (found == wanted).all() and {255, 6} < set(np.unique(wanted))
