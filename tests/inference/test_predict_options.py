"""What may be asked of a prediction, and how many objects it may give."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from htc_fast import UserError
from htc_fast.errors import say_once
from htc_fast.inference import optimize
from htc_fast.inference.export import export_file
from htc_fast.inference.predict import at_stage, predict
from tests.inference.fake import Fake
from tests.models.test_zoo import tiny

PICTURE = np.zeros((48, 64, 3), dtype=np.uint8)
WRONG = {
    "size, a number": ({"size": 640}, r"size takes two sides of 32 to 65536 pixels .*got 640 \(int\)"),
    "size, text": ({"size": "640"}, r"size takes two sides.*got '640' \(str\)"),
    "size, one": ({"size": (640,)}, "size takes two sides"),
    "size, small": ({"size": (9, 64)}, "size takes two sides"),
    "size, no numbers": ({"size": (64, None)}, "size takes two sides"),
    "size, endless": ({"size": (64, float("inf"))}, "size takes two sides"),
    "size, of many digits": ({"size": (10**400, 64)}, "size takes two sides"),
    "size, the longer first": ({"size": (1333, 800)}, r"size takes two sides .*, the smaller first, got \(1333, 800\)"),
    "size, parts of pixels": ({"size": (64.5, 96)}, "size takes two sides"),
    "size, in no order": ({"size": {64, 96}}, "size takes two sides"),
    "batch size, of many digits": (
        {"batch_size": 10**5000},
        r"batch_size takes .* from 1 to 2147483647, got a value too",
    ),
    "score, of many digits": ({"score_threshold": 10**400}, "score_threshold takes a number from 0 to 1, got 1000"),
    "batch size, none": ({"batch_size": 0}, "batch_size takes a whole number of at least 1, got 0"),
    "batch size, half": ({"batch_size": 1.5}, r"batch_size takes .*, got 1.5 \(float\)"),
    "batch size, yes": ({"batch_size": True}, r"batch_size takes .*, got True \(bool\)"),
    "workers": ({"workers": -1}, "workers takes a whole number of at least 0, got -1"),
    "score, nan": ({"score_threshold": float("nan")}, r"score_threshold takes a number from 0 to 1, got nan \(float\)"),
    "score, per cent": ({"score_threshold": 50}, r"score_threshold takes a number from 0 to 1, got 50 \(int\)"),
    "score, text": ({"score_threshold": "0.5"}, r"score_threshold takes .* got '0.5' \(str\)"),
    "names, few": ({"class_names": ["cat"]}, "class_names must name 3 classes, as the model has, got 1"),
    "names, text": ({"class_names": "cat"}, r"class_names takes a list of names, got 'cat' \(str\)"),
    "names, none": ({"class_names": []}, "class_names must name 3 classes, as the model has, got 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_makes_no_sense_is_one_sentence(case):
    options, sentence = WRONG[case]
    with pytest.raises(UserError, match=sentence):
        predict(Fake(), PICTURE, **options)


def test_numbers_of_other_libraries():
    found = predict(Fake(), PICTURE, size=np.array([64, 128]), batch_size=np.int64(2), score_threshold=np.float32(0.5))
    assert len(found) == 1 and len(found[0]) == 1


@pytest.mark.parametrize("stage", [0, 4, -1, True, "2", 1.5])
def test_a_stage_that_is_not_there(stage):
    with pytest.raises(UserError, match=r"there is no stage .*: fake has stages 1 to 3"), at_stage(Fake(), stage):
        pass


def test_a_full_picture_is_said_once(capsys):
    say_once.cache_clear()
    model = Fake()
    model.config = replace(model.config, detections=2)
    predict(model, [PICTURE, PICTURE], size=(64, 128))
    said = capsys.readouterr().err
    assert said.count("a picture has 2 objects, which is the limit") == 1 and "detections=" in said
    say_once.cache_clear()
    predict(model, PICTURE, size=(64, 128), score_threshold=0.5)
    predict(model, PICTURE, size=(64, 128), score_threshold=0.0)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("limit", [100, 300])
def test_more_detections_than_the_network_can_find(limit):
    """30 proposals of 3 classes can be 90 objects at most: the rest is padding, also in the optimized model."""
    model = tiny("htc_r50").eval()
    images, sizes = torch.randn(1, 3, 64, 96), torch.tensor([[60, 90]])
    few = model.detect(images, sizes)
    model.config = replace(model.config, detections=limit)
    for form in (model, optimize(model, (64, 96), 1, torch.float32)):
        many = form.detect(images, sizes)
        count = int(many.count)
        assert many.boxes.shape == (1, limit, 4) and many.masks.shape == (1, limit, 28, 28) and 8 < count <= 90
        assert (many.labels[0, count:] == -1).all() and not many.masks[0, count:].any()
        torch.testing.assert_close(many.scores[:, :8], few.scores, rtol=0, atol=1e-4)


def test_an_export_s_arguments(tmp_path):
    model = tiny("htc_r50").eval()
    with pytest.raises(UserError, match=r"image_size takes two sides .*\(height, width\), got 64 \(int\)"):
        export_file(model, tmp_path / "a.pt2", image_size=64)
    with pytest.raises(UserError, match="batch_size takes a whole number of at least 1, got 0"):
        export_file(model, tmp_path / "a.pt2", batch_size=0)
    with pytest.raises(UserError, match=r"what is exported is a detector.*got 'w.pth' \(str\)"):
        export_file("w.pth", tmp_path / "a.pt2")
    with pytest.raises(UserError, match=r"has to end in .pt2, got a.onnx"):
        export_file(model, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())
