"""How sure masks are, and which picture instances came from."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from htc_fast.inference.batch import mask_scores
from htc_fast.inference.predict import predict, stream
from htc_fast.inference.views import Views
from tests.inference.fake import Fake
from tests.models.test_zoo import tiny

PICTURE = np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)


def test_the_mean_of_what_is_inside():
    masks = torch.tensor([[[0.5, 0.9], [0.4, 0.1]], [[0.49, 0.2], [0.0, 0.3]], [[1.0, 1.0], [1.0, 1.0]]])
    assert mask_scores(masks).tolist() == pytest.approx([0.7, 0, 1])
    assert mask_scores(masks[None].expand(2, 3, 2, 2)).shape == (2, 3) and mask_scores(masks[:0]).shape == (0,)
    half = torch.full((1, 28, 28), 0.75, dtype=torch.float16)
    assert mask_scores(half).dtype == torch.float32 and mask_scores(half).tolist() == [0.75]


class Unsure(Fake):
    """The first instance's mask is half 0.8 and half 0.6, the second's nowhere 0.5, of the first picture of a batch."""

    def detect(self, images, image_sizes):
        found = super().detect(images, image_sizes)
        found.masks[0, 0, :14], found.masks[0, 0, 14:], found.masks[0, 1] = 0.8, 0.6, 0.25
        return found


def test_every_instance_has_one():
    found = predict(Unsure(), [PICTURE, PICTURE], size=(96, 160), batch_size=2)
    assert found[0].mask_scores.tolist() == pytest.approx([0.7, 0]) and found[1].mask_scores.tolist() == [1, 1]
    assert found[0].areas[0] > 1400 and found[0].areas[1] == 0
    (best,) = predict(Unsure(), PICTURE, size=(96, 160), score_threshold=0.5)
    assert best.mask_scores.tolist() == pytest.approx([0.7]) and len(best) == 1


def test_views_have_one_too():
    model = tiny("htc_r50").eval()
    (alone,) = predict(model, PICTURE, size=(64, 96), score_threshold=0)
    (viewed,) = Views(model, None, flip=False).predict(PICTURE, size=(64, 96), score_threshold=0)
    assert len(alone) and torch.equal(alone.mask_scores, viewed.mask_scores)
    assert ((alone.mask_scores == 0) | (alone.mask_scores >= 0.5)).all() and alone.mask_scores.max() <= 1


def test_predict_keeps_the_picture_and_stream_does_not(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(PICTURE).save(path)
    by_path, by_array, by_file = predict(Fake(), [path, PICTURE, io.BytesIO(path.read_bytes())], size=(96, 160))
    assert by_path.source == path and by_array.source is PICTURE and by_file.source is None
    assert np.array_equal(np.asarray(by_path.crop()[0]), PICTURE[15:45, 25:75])
    assert np.array_equal(np.asarray(by_path.plot()), np.asarray(by_file.plot(PICTURE)))
    assert by_array._repr_png_() == by_path._repr_png_() != by_file._repr_png_()
    ((_, found),) = stream(Fake(), 1, lambda _: PICTURE, size=(96, 160))
    assert found.source is None
