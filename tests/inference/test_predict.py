"""From pictures to instances in the pictures' own pixels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from htc_fast import UserError
from htc_fast.inference.predict import predict, stream
from tests.inference.fake import Fake

LYING = np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)
UPRIGHT = np.random.default_rng(1).integers(0, 256, (90, 50, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["path", "text", "pil", "array"])
def test_kinds_of_pictures(tmp_path, kind):
    path = tmp_path / "a.png"
    Image.fromarray(LYING).save(path)
    source = {"path": path, "text": str(path), "pil": Image.fromarray(LYING), "array": LYING}[kind]
    model = Fake()
    (found,) = predict(model, source, size=(120, 400))
    assert torch.allclose(found.boxes, torch.tensor([[25.0, 15, 75, 45], [0, 0, 50, 30]]))
    assert found.labels.tolist() == [1, 0] and found.scores.tolist() == pytest.approx([0.9, 0.4])
    assert found.size == (60, 100) and model.seen[0][1].tolist() == [[120, 200]]
    mask = torch.zeros(60, 100, dtype=torch.bool)
    mask[15:45, 25:75] = True
    assert torch.equal(found.masks[0], mask)
    assert found.masks[1, :15, :50].float().mean() > 0.95 and not found.masks[1, 16:].any()


@pytest.mark.parametrize("batch_size, workers", [(1, 0), (2, 0), (5, 0), (2, 1)])
def test_batches_of_different_sizes(batch_size, workers):
    pictures = [LYING, UPRIGHT, LYING]
    model = Fake()
    found = predict(model, pictures, size=(96, 160), batch_size=batch_size, workers=workers)
    assert [one.size for one in found] == [(60, 100), (90, 50), (60, 100)]
    assert [one.boxes[0].tolist() for one in found] == [[25, 15, 75, 45], [12.5, 22.5, 37.5, 67.5], [25, 15, 75, 45]]
    # Upright and lying pictures are not padded to each other.
    assert sorted(len(images) for images, _ in model.seen) == {1: [1, 1, 1], 2: [1, 1, 1], 5: [1, 2]}[batch_size]
    assert all(side % 32 == 0 for images, _ in model.seen for side in images.shape[2:])


def test_threshold_names_and_own_size():
    model = Fake()
    model.config = replace(model.config, image_size=(60, 100))
    (found,) = predict(model, LYING, score_threshold=0.5)
    assert len(found) == 1 and found.name(0) == "class 2" and model.seen[0][1].tolist() == [[60, 100]]
    model.config = replace(model.config, class_names=("cat", "dog", "owl"))
    assert predict(model, LYING)[0].name(0) == "dog"
    assert predict(model, LYING, class_names=["x", "y", "z"])[0].name(0) == "y"
    assert predict(Fake(80), LYING, size=(64, 128))[0].name(0) == "bicycle"


def test_the_model_is_left_as_it_was():
    model = Fake().train()
    predict(model, LYING, size=(64, 128))
    assert model.training


def test_normalisation():
    model = Fake(mean=(100.0, 0.0, 0.0), std=(2.0, 1.0, 1.0))
    predict(model, np.full((64, 64, 3), 50, np.uint8), size=(64, 64))
    assert model.seen[0][0][0, :, 0, 0].tolist() == [-25, 50, 50]


def test_nothing_and_bad_pictures(tmp_path):
    assert predict(Fake(), []) == []
    with pytest.raises(UserError, match="is missing"):
        predict(Fake(), tmp_path / "no.jpg")
    (tmp_path / "bad.jpg").write_text("hello")
    with pytest.raises(UserError, match="not a picture"):
        predict(Fake(), [LYING, tmp_path / "bad.jpg"], size=(64, 128))
    with pytest.raises(UserError, match=r"float64 from -1 to 1: expected uint8"):
        predict(Fake(), LYING / 127.5 - 1)


def test_a_stream_goes_on_after_a_bad_picture():
    def load(index):
        if index == 1:
            raise UserError("no picture")
        return LYING

    found = dict(stream(Fake(), 4, load, size=(64, 128), batch_size=2))
    assert sorted(found) == [0, 1, 2, 3] and isinstance(found[1], UserError) and len(found[2]) == 2
    assert list(dict(stream(Fake(), 4, load, size=(64, 128), order=[3, 0]))) == [3, 0]


def test_a_stream_reads_only_a_little_ahead():
    loaded = []

    def load(index):
        loaded.append(index)
        return LYING

    results = stream(Fake(), 10_000, load, size=(64, 128), batch_size=2)
    for _ in range(6):
        next(results)
    results.close()
    assert 6 <= len(loaded) <= 14
