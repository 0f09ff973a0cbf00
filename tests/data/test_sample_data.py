"""The data set made on the spot: the same every time, exact, and safe to make twice at once."""

import errno
import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from htc_fast import UserError
from htc_fast.data import CocoDataset, make_sample_dataset, sample, scenes


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_sample_dataset(tmp_path_factory.mktemp("sample") / "a", train=6, val=4)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_whole(root):
    train, val = CocoDataset(root, "train"), CocoDataset(root, "val")
    assert len(train) == 6 and len(val) == 4 and len(train.classes) == 10 and train.semantic_classes == 12
    for dataset in (train, val):
        for item in dataset:
            masks, semantic = item["masks"].numpy(), item["semantic"].numpy()
            assert masks.sum(axis=0).max() == 1, "what hides an object is not part of it"
            assert all((semantic[mask > 0] == label).all() for mask, label in zip(masks, item["labels"].tolist()))
            assert np.isin(semantic[masks.sum(axis=0) == 0], (10, 11)).all()
            assert masks.sum(axis=(1, 2)).min() >= 100
            for mask, (x1, y1, x2, y2) in zip(masks, item["boxes"].int().tolist()):
                assert mask.sum() == mask[y1:y2, x1:x2].sum() and mask[y1].any() and mask[:, x2 - 1].any()


def test_same_every_time_and_kept(root, tmp_path):
    other = make_sample_dataset(tmp_path / "b", train=6, val=4)
    assert contents(other) == contents(root)
    marker = other / "train2017" / "000001.jpg"
    before = marker.stat().st_mtime_ns
    assert make_sample_dataset(tmp_path / "b", train=6, val=4) == other and marker.stat().st_mtime_ns == before


def test_held_out_scenes_are_others(root):
    first = [np.asarray(Image.open(root / f"{split}2017" / "000001.jpg")) for split in ("train", "val")]
    assert first[0].shape != first[1].shape or not np.array_equal(*first)


def test_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    root = make_sample_dataset(train=1, val=1, seed=3)
    assert root.is_relative_to(tmp_path) and json.loads((root / "annotations/instances_val2017.json").read_text())
    assert make_sample_dataset(train=1, val=1, seed=4) != root


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        make_sample_dataset(tmp_path)
    with pytest.raises(UserError, match="cannot write"):
        make_sample_dataset(tmp_path / "note.txt" / "inside")
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_what_lies_on_top_is_what_is_seen():
    pixels, owner, areas = np.zeros((40, 40, 3), np.float32), np.full((40, 40), -1, np.int16), []
    opacity = np.full((24, 24), 0.4, np.float32)
    opacity[1:-1, 1:-1] = 1
    for colour in (100.0, 200.0):
        assert scenes._paste(pixels, owner, areas, np.full((24, 24, 3), colour), opacity, np.random.default_rng(5))
    assert areas == [22 * 22] * 2 and (owner == 1).sum() >= 0.3 * areas[1]
    seen = pixels[..., 0]
    assert (seen[owner == 1] == 200).all() and (seen[owner == 0] <= 140).all() and (seen[owner == -1] <= 110).all()
    assert (seen[owner == 0] >= 100).all()


def test_nothing_is_left_of_a_failure(tmp_path, monkeypatch):
    def full(root, recipe):
        (root / "annotations").mkdir()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sample, "_write", full)
    with pytest.raises(UserError, match="No space left"):
        make_sample_dataset(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def make(folder: Path, results) -> None:
    results.put(str(make_sample_dataset(folder, train=3, val=2)))


@pytest.mark.slow
def test_two_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    both = [context.Process(target=make, args=(tmp_path / "a", results)) for _ in range(2)]
    for process in both:
        process.start()
    assert {results.get(timeout=600) for _ in both} == {str(tmp_path / "a")}
    for process in both:
        process.join()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert len(CocoDataset(tmp_path / "a", "train")) == 3
