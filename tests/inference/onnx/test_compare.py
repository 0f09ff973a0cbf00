"""What counts as the same detection, and when a file is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from htc_fast.errors import UserError
from htc_fast.inference.onnx.compare import FULL, HALF, compare, compare_with, framed, photographs, read
from htc_fast.models.structures import Detections
from tests.models.test_zoo import tiny


def drawn(count=20, most=24):
    """One picture's detections, best first."""
    torch.manual_seed(0)
    boxes, scores = torch.rand(1, most, 4) * 100, torch.rand(1, most).sort(descending=True).values
    labels, masks = torch.randint(0, 3, (1, most)), torch.rand(1, most, 28, 28)
    return Detections(boxes, scores, labels, masks, torch.tensor([count], dtype=torch.int32))


def changed(found, **fields):
    return replace(found, **{name: getattr(found, name) + value for name, value in fields.items()})


def test_equal_detections_are_twins():
    found = compare([drawn()], [drawn()])
    assert (found.pictures, found.found, found.twins, found.extra) == (1, 20, 20, 0)
    assert found.agree and found.boxes == found.scores == found.masks == 0.0


def test_rounding_may_change_places():
    swapped = drawn()
    for name in ("boxes", "scores", "labels", "masks"):
        getattr(swapped, name)[0, [3, 4]] = getattr(swapped, name)[0, [4, 3]]
    assert compare([drawn()], [swapped]).twins == 20


# Just beyond what is allowed.
APART = {"boxes": 0.011, "scores": 1.1e-4, "masks": 1.1e-3, "labels": 1}


@pytest.mark.parametrize("name", APART)
def test_what_is_too_far_is_no_twin(name):
    other = changed(drawn(), **{name: APART[name]})
    if name == "labels":
        other.labels %= 3
    found = compare([drawn()], [other])
    assert found.twins == 0 and not found.agree


def test_the_largest_difference_is_told():
    found = compare([drawn()], [changed(drawn(), boxes=0.004, masks=5e-4)])
    assert found.agree and found.twins == 20
    assert found.boxes == pytest.approx(0.004, rel=0.01) and found.masks == pytest.approx(5e-4, rel=0.01)
    assert "within 0.004 pixels" in str(found)


def test_one_twin_is_not_two():
    mine = drawn()
    for name in ("boxes", "scores", "labels", "masks"):
        getattr(mine, name)[0, 1:20] = getattr(mine, name)[0, :1]
    assert compare([mine], [drawn()]).twins == 1


def test_more_in_one_picture_and_less_in_another_is_not_nothing():
    found = compare([drawn(20), drawn(20)], [drawn(19), drawn(21)])
    assert found.pictures == 2 and found.extra == 2


def test_the_nearest_box_is_the_twin():
    mine, other = drawn(1), drawn(2)
    for name in ("scores", "labels", "masks"):
        getattr(other, name)[0, 1] = getattr(other, name)[0, 0]
    other.scores[0, 1] += 5e-5
    other.boxes[0, 1] = other.boxes[0, 0] + 0.001
    other.boxes[0, 0] += 0.009
    assert compare([mine], [other]).boxes == pytest.approx(0.001, rel=0.02)


@pytest.mark.parametrize(("count", "agree"), [(20, True), (19, True), (18, False), (21, True), (22, False)])
def test_few_may_be_missing_or_more(count, agree):
    assert compare([drawn(20)], [drawn(count)]).agree is agree


def test_nothing_found_is_said():
    found = compare([drawn(0)], [drawn(0)])
    assert found.agree and "neither the file nor the detector finds anything in 1 picture" in str(found)
    assert not compare([drawn(0)], [drawn(1)]).agree


def test_sixteen_bits_are_allowed_more():
    rough = changed(drawn(), boxes=1.5, scores=0.01, masks=0.1)
    assert not compare([drawn()], [rough], FULL).agree
    assert compare([drawn()], [rough], HALF).agree


class File:
    """A detector as a file would be."""

    def __init__(self, model, frame, raw=False):
        self.model, self.frame, self.raw, self.seen = model, frame, raw, []
        self.mean, self.std = (torch.tensor(one) for one in (model.config.mean, model.config.std))

    def detect(self, images, sizes):
        self.seen.append(tuple(images.shape))
        if self.raw:  # without regard to the padding
            images = ((images.float() - self.mean) / self.std).permute(0, 3, 1, 2).contiguous()
        return self.model.detect(images, sizes)


def test_batches_are_filled_and_other_weights_refused():
    model, other = tiny("mask_rcnn_r50").eval(), tiny("mask_rcnn_r50").eval()
    torch.nn.init.normal_(other.box_heads[0].classes.weight)
    file = File(model, (3, 64, 96))
    found = compare_with(model, file, photographs())
    assert file.seen == [(3, 3, 64, 96)] and found.pictures == 2 and found.twins == found.found > 0
    file = File(model, (None, 64, 96))
    assert compare_with(model, file, photographs()).pictures == 2
    assert file.seen == [(1, 3, 64, 96), (2, 3, 64, 96)]
    with pytest.raises(UserError) as refused:
        compare_with(model, File(other, (1, 64, 96)), photographs())
    said = str(refused.value)
    assert "the file would be wrong and was not written: " in said and "of the detector's" in said
    assert "; 95% have to be, within 0.01 pixels, 0.0001 and 0.001. Compare on pictures like those" in said


def test_a_single_picture_is_judged_with_the_others():
    """One in five of few detections is soon one."""
    model = tiny("mask_rcnn_r50").eval()

    class Alone(File):
        def detect(self, images, sizes):
            found = super().detect(images, sizes)
            if len(images) == 1:  # a quarter of all that is compared
                found.labels[:, 0] = -7
            return found

    count = int(compare_with(model, File(model, (1, 64, 96)), photographs()[:1]).found)
    allowed = replace(HALF, share=1 - 1.5 / (3 * count))
    assert count >= 2 and compare_with(model, Alone(model, (None, 64, 96)), photographs(), allowed).agree
    with pytest.raises(UserError, match=r"16 bits may be too few|--fp16"):
        compare_with(model, Alone(model, (None, 64, 96)), photographs(), replace(HALF, share=1.0))


def test_nothing_in_common_has_no_differences():
    found = compare([drawn()], [changed(drawn(), boxes=50)], HALF)
    assert str(found) == "none of the detector's 20 detections in 1 picture is the file's too"


def test_padding_that_counts_is_noticed():
    model = tiny("mask_rcnn_r50").eval()
    lying, upright = photographs()[0], photographs()[0].swapaxes(0, 1).copy()
    with pytest.raises(UserError, match="would be wrong"):
        compare_with(model, File(model, (1, 64, 96), raw=True), [upright])
    frame = 64, 64 * lying.shape[1] // lying.shape[0] // 32 * 32
    assert compare_with(model, File(model, (1, *frame), raw=False), [upright]).agree


def test_pictures_are_read_as_predict_reads_them(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (30, 20), (9, 8, 7)).save(path)
    for given in (path, str(path), [path], np.full((20, 30, 3), (9, 8, 7), np.uint8)):
        [pixels] = read(given)
        assert pixels.shape == (20, 30, 3) and pixels[0, 0].tolist() == [9, 8, 7]
    assert [one.shape for one in read(None)] == [(375, 500, 3), (480, 640, 3)]
    with pytest.raises(UserError, match="must be at least one, got none"):
        read([])
    with pytest.raises(UserError, match=r"b\.png"):
        read(tmp_path / "b.png")


@pytest.mark.parametrize("shape", [(10, 100), (100, 10), (64, 96), (1000, 2), (1, 1), (333, 500)])
def test_pictures_fit_into_the_frame(shape):
    pixels = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    _, height, width = framed(pixels, (64, 96)).shape
    assert 1 <= height <= 64 and 1 <= width <= 96 and (height == 64 or width == 96)
