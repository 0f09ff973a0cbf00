"""The data set made on the spot: the same every time, exact, and safe to make twice at once."""

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from htc_fast import UserError
from htc_fast.data import CocoDataset, make_sample_dataset


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_sample_dataset(tmp_path_factory.mktemp("sample") / "a", train=6, val=4)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_whole(root):
    train, val = CocoDataset(root, "train"), CocoDataset(root, "val")
    assert len(train) == 6 and len(val) == 4 and len(train.classes) == 10 and train.semantic_classes == 12
    for dataset in (train, val):
        for sample in dataset:
            masks, semantic = sample["masks"].numpy(), sample["semantic"].numpy()
            assert masks.sum(axis=0).max() == 1, "what hides an object is not part of it"
            assert all((semantic[mask > 0] == label).all() for mask, label in zip(masks, sample["labels"].tolist()))
            assert np.isin(semantic[masks.sum(axis=0) == 0], (10, 11)).all()
            assert masks.sum(axis=(1, 2)).min() >= 100
            for mask, (x1, y1, x2, y2) in zip(masks, sample["boxes"].int().tolist()):
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


def make(folder: Path, results) -> None:
    results.put(str(make_sample_dataset(folder, train=3, val=2)))


def test_two_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    both = [context.Process(target=make, args=(tmp_path / "a", results)) for _ in range(2)]
    for process in both:
        process.start()
    assert {results.get(timeout=60) for _ in both} == {str(tmp_path / "a")}
    for process in both:
        process.join()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert len(CocoDataset(tmp_path / "a", "train")) == 3
