"""What `predict` takes: any array a program holds, in whatever holds several; and models of other precisions."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

import htc_fast
from htc_fast import UserError
from htc_fast.data.draw import draw
from htc_fast.inference.predict import predict
from tests.inference.fake import Fake

RGB = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
RGB[0, 0] = 255


def encoded():
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "PNG")
    return file.getvalue()


SOURCES = {
    "BGR turned round": RGB[..., ::-1].copy()[..., ::-1],
    "Fortran order": np.asfortranarray(RGB),
    "channels first": RGB.transpose(2, 0, 1),
    "floats": RGB / 255,
    "tensor": torch.from_numpy(RGB.copy()).permute(2, 0, 1),
    "bytes": encoded(),
    "file": io.BytesIO(encoded()),
    "picture": Image.fromarray(RGB),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_the_network_sees_the_same(source):
    model = Fake()
    (found,) = predict(model, source, size=(64, 96))
    assert found.size == (64, 96) and len(found) == 2
    assert torch.equal(model.seen[0][0][0], torch.from_numpy(RGB.copy()).permute(2, 0, 1).float())


SEVERAL = {
    "batch": np.stack([RGB, RGB // 2]),
    "tensors": torch.from_numpy(np.stack([RGB, RGB // 2])).permute(0, 3, 1, 2),
    "generator": (one for one in (RGB, RGB // 2)),
    "tuple": (RGB, RGB // 2),
}


@pytest.mark.parametrize("sources", SEVERAL.values(), ids=SEVERAL)
def test_several_in_whatever_holds_them(sources):
    model = Fake()
    assert len(predict(model, sources, size=(64, 96))) == 2
    assert [images[0, 0, 0, 0].item() for images, _ in model.seen] == [255, 127]


def test_what_is_wrong_says_which_it_is():
    with pytest.raises(UserError, match=r"picture 1 of 2: the array holds float64 from nan to nan"):
        predict(Fake(), [RGB, RGB * np.nan], size=(64, 96))
    for wrong in (None, {"a": RGB}, {"a.jpg"}, 5):
        with pytest.raises(UserError, match="expected a path, a PIL image or an array"):
            predict(Fake(), wrong)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_models_of_other_precisions(dtype):
    torch.manual_seed(0)
    small = {"backbone": "test_resnet", "channels": 16, "box_channels": 16, "semantic_classes": 4}
    model = htc_fast.create_model("htc_r50", num_classes=3, **small).train()
    (want,) = model.predict(RGB, size=(64, 96), score_threshold=0)
    (found,) = model.to(dtype).predict(RGB, size=(64, 96), score_threshold=0)
    assert model.training and found.boxes.dtype == torch.float32
    assert len(found) == len(want) and torch.allclose(found.scores, want.scores, atol=0.02)


def test_drawing_takes_the_same():
    (found,) = predict(Fake(), RGB, size=(64, 96))
    want = np.asarray(draw(RGB, found))
    for source in SOURCES.values():
        if not isinstance(source, io.BytesIO):
            assert np.array_equal(np.asarray(draw(source, found)), want)
