"""Copy-paste: what is put over what, what is left of the covered, and that a seed fixes it."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from torchvision import tv_tensors

from htc_fast.data import CocoDataset, runs
from htc_fast.data.copy_paste import CopyPaste, paste, placed
from htc_fast.data.jitter import ScaleJitter
from htc_fast.data.semantic import Derived, PixelMaps
from htc_fast.training.batches import Batches
from tests.data.builder import CATEGORIES, image, instance, write
from tests.data.forms import assert_same, box_of, in_rows, layered, plain, sample_of
from tests.data.test_numbered import masks_of

FORMS = pytest.mark.parametrize("form", [lambda sample: sample, layered], ids=["rows", "layers"])
BAND, DOT = [[1, 1, 1, 1], [1, 1, 1, 1], [0] * 4, [0] * 4], [[0] * 4, [0] * 4, [0] * 4, [0, 0, 0, 1]]
BLOCK, SPOT = [[0] * 4, [0, 1, 1, 1], [0, 1, 1, 1], [0] * 4], [[0] * 4, [0] * 4, [0, 0, 1, 0], [0] * 4]
ALL = torch.tensor([True])


def below():
    """A band at the top and a dot at the bottom right, on class 3."""
    return sample_of([BAND, DOT], [0, 1], level=10, semantic=[[0] * 4, [0] * 4, [3] * 4, [3, 3, 3, 1]])


def above():
    """A block with a spot on it, on class 3."""
    semantic = [[3] * 4, [3, 2, 2, 2], [3, 2, 0, 2], [3] * 4]
    return sample_of([BLOCK, SPOT], [2, 0], level=20, semantic=semantic)


@FORMS
def test_a_block_over_a_band(form):
    out = in_rows(paste(form(below()), form(above()), torch.tensor([True, False]), Derived(3)))
    assert plain(out["image"])[2].tolist() == [[10] * 4, [10, 20, 20, 20], [10, 20, 20, 20], [10] * 4]
    assert out["labels"].tolist() == [0, 1, 2] and out["name"] == "a.jpg"
    left = [[1, 1, 1, 1], [1, 0, 0, 0], [0] * 4, [0] * 4]
    assert plain(out["masks"]).tolist() == [left, DOT, BLOCK]
    assert plain(out["boxes"]).tolist() == [[0, 0, 4, 2], [3, 3, 4, 4], [1, 1, 4, 3]]
    # The block is pasted, the spot on it is not: in derived maps all of it is the block.
    assert plain(out["semantic"]).tolist() == [[0] * 4, [0, 2, 2, 2], [3, 2, 2, 2], [3, 3, 3, 1]]


@FORMS
def test_real_maps_go_with_the_pixels(form, tmp_path):
    chosen = torch.tensor([True, False])
    out = paste(form(below()), form(above()), chosen, PixelMaps(tmp_path, 4))
    assert plain(out["semantic"]).tolist() == [[0] * 4, [0, 2, 2, 2], [3, 2, 0, 2], [3, 3, 3, 1]]
    plain_below = {key: value for key, value in below().items() if key != "semantic"}
    assert "semantic" not in paste(form(plain_below), form(above()), chosen, None)


@FORMS
def test_what_is_covered_whole_goes(form):
    out = paste(form(sample_of([SPOT, DOT], [1, 0])), form(above()), torch.tensor([True, True]), None)
    assert out["labels"].tolist() == [0, 2, 0]
    assert plain(in_rows(out)["masks"]).tolist() == [DOT, BLOCK, SPOT]


@FORMS
@pytest.mark.parametrize(
    "area, left, stays",
    [(20, 2, True), (20, 1, False), (4000, 301, True), (4000, 300, False), (3000, 300, True), (3000, 0, False)],
)
def test_how_little_is_still_an_object(form, area, left, stays):
    behind, front = torch.zeros(2, 1, 40 * 100)
    behind[:, :area] = front[:, left:] = 1
    samples = [form(sample_of(mask.reshape(1, 40, 100))) for mask in (behind, front)]
    out = paste(*samples, ALL, None)
    assert len(out["labels"]) == 1 + stays
    assert in_rows(out)["masks"].flatten(1).sum(dim=1).tolist() == [*[left] * stays, 4000 - left]


@FORMS
def test_untouched_objects_keep_their_boxes(form):
    sample = form(below())
    sample["boxes"][:] = torch.tensor([[0, 0, 4, 1.5], [2.5, 2.5, 4, 4]])
    out = paste(sample, form(above()), torch.tensor([False, True]), Derived(3))
    assert plain(out["boxes"]).tolist() == [[0, 0, 4, 1.5], [2.5, 2.5, 4, 4], [2, 2, 3, 3]]
    assert plain(sample["masks"]).equal(plain(form(below())["masks"])), "what was given stays as it is"


def test_many_labels_share_a_class():
    maps = Derived(300)
    samples = [sample_of([mask], [299], semantic=np.full((4, 4), 1)) for mask in (BAND, SPOT)]
    assert plain(paste(*samples, ALL, maps)["semantic"]).tolist() == [[1] * 4, [1] * 4, [1, 1, 0, 1], [1] * 4]


@settings(deadline=None)
@given(masks_of(most=4), masks_of(most=6), st.integers(1, 63))
def test_pixels_masks_boxes_and_classes_agree(masks, others, chosen):
    chosen = torch.tensor([chosen >> i & 1 for i in range(len(others))], dtype=torch.bool)
    maps, labels = Derived(6), torch.arange(6)
    semantic = [maps.read(Blank(), runs_of(part), labels.numpy()) for part in (masks, others)]
    behind, front = (sample_of(part, level=n, semantic=semantic[n]) for n, part in enumerate((masks, others)))
    if not chosen.any():
        return
    out = paste(behind, front, chosen, maps)
    where = others[chosen].any(dim=0).bool()
    assert torch.equal(plain(out["image"]), where.to(torch.uint8).expand(3, 5, 6))
    left = masks * ~where
    before, after = masks.sum(dim=(1, 2)), left.sum(dim=(1, 2))
    stays = (after == before) | (after >= 0.1 * before)
    assert torch.equal(plain(out["masks"]), torch.cat([left[stays], others[chosen]]))
    assert torch.equal(out["labels"], torch.cat([labels[: len(masks)][stays], labels[: len(others)][chosen]]))
    assert torch.equal(plain(out["boxes"]), torch.stack([box_of(mask) for mask in out["masks"]]))
    pasted = maps.read(Blank(), runs_of(others[chosen]), labels[: len(others)][chosen].numpy())
    assert (plain(out["semantic"]).numpy() == np.where(where, pasted, semantic[0])).all()
    assert_same(out, paste(layered(behind), layered(front), chosen, maps))


def runs_of(masks):
    return runs.read([coco_mask.encode(np.asfortranarray(one)) for one in masks.numpy()])


class Blank:
    """A picture of 5 x 6 pixels without crowds."""

    height, width, annotations = 5, 6, ()


def test_other_sizes_lie_on_each_other_at_random():
    small, large = sample_of([[[1, 1], [1, 0]]], level=7), sample_of(torch.eye(6)[None], level=7)
    assert placed(small, [2, 2]) is small
    found = set()
    for seed in range(100):
        torch.manual_seed(seed)
        one, other = placed(small, [4, 3]), placed(large, [4, 7])
        assert one["image"].shape == (3, 4, 3) and other["image"].shape == (3, 4, 7)
        x, y = plain(one["boxes"])[0, :2].int().tolist()
        assert plain(one["masks"])[0, y : y + 2, x : x + 2].tolist() == [[1, 1], [1, 0]]
        assert plain(one["image"])[0, y : y + 2, x : x + 2].tolist() == [[7, 7], [7, 7]]
        found.add((x, y))
        for mask, box in zip(plain(other["masks"]), plain(other["boxes"])):
            assert torch.equal(box, box_of(mask)) and mask.sum() == 4
    assert found == {(x, y) for x in range(2) for y in range(3)}


@pytest.fixture
def dataset(tmp_path):
    content = {"images": [image(n) for n in range(6)], "categories": CATEGORIES}
    content["annotations"] = [
        instance(n, (7, 3, 90)[(n + i) % 3], 3 + 9 * i, 2 + n, 14, 10) for n in range(6) for i in range(n % 4)
    ]
    content["annotations"].append(instance(1, 3, 0, 0, 64, 48, iscrowd=1))
    return CocoDataset(write(tmp_path, content), "val", keep_empty=True, transform=ScaleJitter(48))


def test_how_many_pictures_get_objects(dataset):
    dataset.transform = None
    torch.manual_seed(0)
    source = CopyPaste(dataset, 0.3)
    # Pictures 0 and 4 have nothing to give.
    got = [len(source[5]["labels"]) > 1 for _ in range(300)]
    assert sum(got) / 300 == pytest.approx(0.3 * 3 / 5, abs=0.06)
    assert all(len(CopyPaste(dataset, 0.0)[n]["labels"]) == n % 4 for n in range(6))
    counts = [len(CopyPaste(dataset, 1.0)[0]["labels"]) for _ in range(300)]
    # Of the sources 1, 2, 3, 5 and the empty 4: 1 to all objects, crowds never.
    expected = {0: 1 / 5, 1: 2 / 5 + 1 / 10 + 1 / 15, 2: 1 / 10 + 1 / 15, 3: 1 / 15}
    assert {count: counts.count(count) / 300 for count in range(4)} == pytest.approx(expected, abs=0.09)


def test_what_has_no_pixel_is_not_pasted(dataset):
    dataset.transform = lambda sample: {**sample, "masks": tv_tensors.Mask(torch.zeros_like(sample["masks"]))}
    torch.manual_seed(0)
    assert all(len(CopyPaste(dataset, 1.0)[n]["labels"]) == n % 4 for n in range(6) for _ in range(5))


def test_the_only_picture_gives_to_itself(tmp_path):
    content = {"images": [image(1)], "annotations": [instance(1, 3, 5, 5, 9, 9)], "categories": CATEGORIES}
    dataset = CocoDataset(write(tmp_path, content), "val", transform=ScaleJitter(64, (0.8, 1.25)))
    torch.manual_seed(0)
    assert max(len(CopyPaste(dataset, 1.0)[0]["labels"]) for _ in range(9)) == 2


def test_a_seed_fixes_it_in_any_worker(dataset):
    def first(workers, seed=1):
        batches = Batches(CopyPaste(dataset, 0.7), list, 2, seed=seed, workers=workers)
        return [sample for batch in itertools.islice(batches.stream(1), 4) for sample in batch]

    here, there, other = first(0), first(2), first(0, seed=2)
    for one, another in zip(here, there, strict=True):
        assert_same(one, another)
    assert not all(torch.equal(one["image"], another["image"]) for one, another in zip(here, other))
    assert all(sample["image"].shape == (3, 48, 48) for sample in here)
