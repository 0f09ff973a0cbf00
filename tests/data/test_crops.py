"""Windows of large pictures to train on: what they hold, what goes, and that a seed fixes them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from htc_fast.data import CocoDataset
from htc_fast.data.annotations import Annotation, Picture
from htc_fast.data.crops import drawn, seen
from htc_fast.data.pictures import load_image
from htc_fast.evaluation import coco
from htc_fast.training.batches import _Drawn
from tests.data.builder import CATEGORIES, image, instance, rectangle, write
from tests.inference.fake import Fake


def picture_of(*boxes, height=600, width=800, **more):
    items = [
        Annotation(label, (x1, y1, x2, y2), rectangle(x1, y1, x2 - x1, y2 - y1), None, False, True)
        for label, (x1, y1, x2, y2) in enumerate(boxes)
    ]
    return Picture(1, "a.png", height, width, items)


def large(tmp_path, split="train"):
    """One picture with two small objects and a large one."""
    content = {
        "images": [image(5, 800, 600)],
        "annotations": [
            instance(5, 3, 700, 500, 12, 10),
            instance(5, 90, 20, 30, 9, 11),
            instance(5, 7, 100, 200, 500, 300),
            instance(5, 7, 90, 190, 40, 40, iscrowd=1),
        ],
        "categories": CATEGORIES,
    }
    return write(tmp_path, content, split)


def test_most_windows_hold_a_whole_object():
    torch.manual_seed(0)
    held, places = [0, 0], set()
    for _ in range(200):
        cut, (x1, y1, x2, y2) = drawn(picture_of((700, 500, 712, 510), (20, 30, 29, 41)), 64)
        assert (x2 - x1, y2 - y1, cut.width, cut.height) == (64, 64, 64, 64)
        assert 0 <= x1 and x2 <= 800 and 0 <= y1 and y2 <= 600
        for item in cut.annotations:
            held[item.label] += 1
            places.add((item.label, x1, y1))
    # Four in five, each object as often, and seldom from the same place.
    assert 140 <= sum(held) <= 180 and min(held) > 55 and len(places) > 140


def test_what_is_cut_has_the_box_of_what_is_left():
    cut = seen(picture_of((10, 10, 60, 50), (70, 20, 90, 40), (0, 0, 90, 90)), (0, 0, 80, 60))
    assert [one.box for one in cut.annotations] == [(10, 10, 60, 50), (70, 20, 80, 40), (0, 0, 80, 60)]
    assert cut.annotations[1].segmentation["size"] == [60, 80] and [one.area for one in cut.annotations] == [
        2000,
        200,
        4800,
    ]
    assert seen(picture_of((10, 10, 60, 50)), (100, 100, 200, 200)).annotations == []


@pytest.mark.parametrize(
    "box, stays",
    [((60, 10, 160, 60), True), ((62, 10, 72, 60), True), ((63, 10, 73, 60), False), ((63, 10, 66, 60), True)],
    ids=["piece of a large one", "2 of 64 wide", "1 of 64 wide, a tenth", "1 of 64 wide, a third"],
)
def test_slivers_go(box, stays):
    assert (len(seen(picture_of(box), (0, 0, 64, 64)).annotations) == 1) == stays


def test_small_pictures_stay_as_they_are():
    picture = picture_of((10, 10, 20, 20), height=40, width=50)
    cut, window = drawn(picture, 64)
    assert cut is picture and window == (0, 0, 50, 40)
    assert drawn(picture_of((10, 10, 20, 20), height=40, width=100), 64)[0].width == 64


@pytest.mark.parametrize("layered", [False, True])
def test_samples(tmp_path, layered):
    root = large(tmp_path)
    dataset = CocoDataset(root, "train", tile=64, layered=layered)
    whole, truth = load_image(root / "train2017" / "000000000005.png"), CocoDataset(root, "train")[0]
    found = set()
    for seed in range(12):
        torch.manual_seed(seed)
        sample = dataset[0]
        torch.manual_seed(seed)
        _, (x1, y1, x2, y2) = drawn(dataset.picture(0), 64)
        assert np.array_equal(sample["image"].permute(1, 2, 0), whole[y1:y2, x1:x2])
        assert torch.equal(sample["semantic"], truth["semantic"][y1:y2, x1:x2])
        every = truth["masks"][:, y1:y2, x1:x2].bool().flatten(1).any(1)
        assert set(sample["labels"].tolist()) <= set(truth["labels"][every].tolist())
        assert sample["masks"].shape[1:] == (64, 64) and len(sample["boxes"]) == len(sample["labels"])
        if not layered:
            assert torch.equal(
                sample["masks"], truth["masks"][torch.isin(truth["labels"], sample["labels"]), y1:y2, x1:x2]
            )
        found |= set(sample["labels"].tolist())
    assert found == {0, 1, 2} and dataset.groups == [1]


def test_maps_from_files_are_cut_too(tmp_path):
    root = large(tmp_path)
    values = np.random.default_rng(0).integers(0, 180, (600, 800), dtype=np.uint8)
    (root / "stuffthingmaps" / "train2017").mkdir(parents=True)
    Image.fromarray(values).save(root / "stuffthingmaps" / "train2017" / "000000000005.png")
    dataset = CocoDataset(root, "train", tile=100)
    torch.manual_seed(3)
    sample = dataset[0]
    torch.manual_seed(3)
    _, (x1, y1, x2, y2) = drawn(dataset.picture(0), 100)
    assert np.array_equal(sample["semantic"], values[y1:y2, x1:x2])


def test_a_seed_fixes_a_window_whatever_came_before(tmp_path):
    dataset = _Drawn(CocoDataset(large(tmp_path), "train", tile=64), seed=3)
    first = [dataset[(epoch, 0)] for epoch in range(4)]
    torch.manual_seed(99)
    again = [dataset[(epoch, 0)] for epoch in (3, 2, 1, 0)][::-1]
    assert all(torch.equal(one["image"], other["image"]) for one, other in zip(first, again))
    assert all(torch.equal(one["boxes"], other["boxes"]) for one, other in zip(first, again))
    assert len({bytes(one["image"].numpy()) for one in first}) == 4


def test_an_evaluation_takes_all_tiles(tmp_path):
    dataset = CocoDataset(large(tmp_path, "val"), "val", tile=320)
    model = Fake()
    found = coco.collect(model, dataset, size=(64, 64), progress=False)
    assert len(model.seen) == 3 * 3 and found[0].size == (600, 800) and len(found[0]) > 9
    assert json.dumps(found[0].to_coco(5)) and coco.score(dataset, found).metrics["mask_AP"] >= -1
