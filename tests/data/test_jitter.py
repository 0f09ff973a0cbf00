"""Large-scale jitter: what a resize, a cut and a border make of a sample, on one square."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from htc_fast.data.jitter import FACTORS, ScaleJitter
from htc_fast.data.pictures import resize, resized_size
from htc_fast.data.transforms import RandomCrop
from tests.data.forms import assert_same, box_of, in_rows, layered, plain, sample_of
from tests.data.test_numbered import masks_of

QUARTERS = [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
CORNERS = [[[int(value == n) for value in row] for row in QUARTERS] for n in (1, 4)]
MEAN = (123.675, 116.28, 103.53)


@pytest.mark.parametrize("form", [lambda sample: sample, layered])
def test_smaller_is_padded_at_the_bottom_and_right(form):
    out = ScaleJitter(4, (0.5, 0.5), MEAN)(form(sample_of(CORNERS, level=9, semantic=QUARTERS)))
    border = [[9, 9, 124, 124], [9, 9, 124, 124], [124] * 4, [124] * 4]
    assert plain(out["image"])[0].tolist() == border
    assert plain(out["image"])[1:, 3, 3].tolist() == [116, 104]
    assert plain(out["semantic"]).tolist() == [[1, 2, 255, 255], [3, 4, 255, 255], [255] * 4, [255] * 4]
    assert plain(out["boxes"]).tolist() == [[0, 0, 1, 1], [1, 1, 2, 2]] and out["boxes"].canvas_size == (4, 4)
    assert plain(in_rows(out)["masks"]).tolist() == [
        [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
    ]


@pytest.mark.parametrize("form", [lambda sample: sample, layered])
def test_larger_is_cut(form):
    sample, found = form(sample_of(CORNERS, semantic=QUARTERS)), {}
    for seed in range(250):
        torch.manual_seed(seed)
        out = ScaleJitter(4, (2, 2))(sample)
        # Where the map's first class ends says where the 8 x 8 picture was cut.
        semantic = plain(out["semantic"])
        top = 4 - int((semantic[:, 0] <= 2).sum())
        left = 4 - int((semantic[0] % 2 == 1).sum())
        found[top, left] = out
    assert found.keys() == {(top, left) for top in range(5) for left in range(5)}
    for (top, left), out in found.items():
        # The first quarter is 0 to 4 of the large picture, the last 4 to 8; one that is cut has what is left.
        first, last = [0, 0, 4 - left, 4 - top], [4 - left, 4 - top, 4, 4]
        expected = [(label, box) for label, box in ((0, first), (1, last)) if box[0] < box[2] and box[1] < box[3]]
        assert out["labels"].tolist() == [label for label, _ in expected]
        assert plain(out["boxes"]).tolist() == [box for _, box in expected]


def test_what_has_no_pixel_left_goes():
    sample = sample_of(torch.zeros(2, 100, 100))
    sample["masks"][0, 53:58, 53:58] = 1
    sample["masks"][1, 10:90, 10:90] = 1
    sample["boxes"][:] = torch.tensor([[53, 53, 58, 58], [10, 10, 90, 90]])
    for form in (sample, layered(sample)):
        out = ScaleJitter(100, (0.1, 0.1))(form)
        assert out["labels"].tolist() == [1] and plain(out["boxes"]).tolist() == [[1, 1, 9, 9]]
    assert len(ScaleJitter(100, (0.2, 0.2))(sample)["labels"]) == 2


def test_a_box_beyond_the_picture_ends_with_it():
    sample = sample_of(CORNERS)
    sample["boxes"][1] = torch.tensor([1.5, 1.5, 9, 9])
    assert plain(ScaleJitter(8, (0.5, 0.5))(sample)["boxes"])[1].tolist() == [1.5, 1.5, 4, 4]
    # A box that was there before is cut with the square alone: its mask's is smaller.
    assert plain(ScaleJitter(8, (1, 1))(sample)["boxes"])[1].tolist() == [3, 3, 8, 8]


def test_sizes_are_drawn_evenly():
    torch.manual_seed(0)
    jitter = ScaleJitter(100, FACTORS["large"], (0, 0, 0))
    white = sample_of(torch.zeros(0, 50, 100), level=255)
    widths = [int(plain(jitter(white)["image"])[0, 0].count_nonzero()) for _ in range(400)]
    assert min(widths) in range(10, 14) and max(widths) == 100
    # 0.1 to 2: 9 of 19 are below 1, and 4 of 19 below a half.
    assert sum(width < 100 for width in widths) / 400 == pytest.approx(9 / 19, abs=0.07)
    assert sum(width < 50 for width in widths) / 400 == pytest.approx(4 / 19, abs=0.06)
    assert FACTORS == {"standard": (0.8, 1.25), "large": (0.1, 2.0)}


@settings(deadline=None)
@given(masks_of((11, 7)), st.integers(0, 2**31), st.integers(1, 14), st.floats(0.1, 2.0))
def test_as_resizing_and_cutting_one_after_the_other(masks, seed, side, factor):
    sample = sample_of(masks, semantic=torch.arange(77).reshape(11, 7))
    # Channels last, as a data set gives them: others torch 2.14 does not resize to a single pixel.
    sample["image"] = tv_tensors.Image(torch.arange(3 * 77).to(torch.uint8).reshape(11, 7, 3).permute(2, 0, 1))
    jitter = ScaleJitter(side, (factor, factor), MEAN)
    torch.manual_seed(seed)
    out = jitter(sample)
    size = resized_size(11, 7, side * factor, side * factor)
    torch.manual_seed(seed)
    torch.empty(()).uniform_(factor, factor)
    top, left = (int(torch.randint(0, max(one - side, 0) + 1, ())) for one in size)
    window = (slice(top, top + side), slice(left, left + side))
    inside = [min(one, side) for one in size]
    image, semantic = plain(out["image"]), plain(out["semantic"])
    assert image.shape == (3, side, side) and semantic.shape == (side, side)
    expected = plain(resize(sample["image"], size))[:, window[0], window[1]]
    assert torch.equal(image[:, : inside[0], : inside[1]], expected)
    assert torch.equal(semantic[: inside[0], : inside[1]], plain(F.resize(sample["semantic"], list(size)))[window])
    assert (semantic[inside[0] :] == 255).all() and (semantic[:, inside[1] :] == 255).all()
    if len(masks):
        resized = plain(F.resize(sample["masks"], list(size)))[:, window[0], window[1]]
        keep = resized.flatten(1).any(dim=1).bool()
        assert out["labels"].tolist() == keep.nonzero().flatten().tolist()
        assert torch.equal(plain(out["masks"])[:, : inside[0], : inside[1]], resized[keep])
        for box, mask in zip(plain(out["boxes"]), resized[keep]):
            tight = box_of(mask)
            # Boxes that were not cut keep their fractions, which nearest pixels may round away.
            assert (box[:2] < tight[:2] + 1).all() and (box[2:] > tight[2:] - 1).all() and (box[2:] > box[:2]).all()
    torch.manual_seed(seed)
    assert_same(out, jitter(layered(sample)))


@pytest.mark.parametrize("seed", range(30))
def test_crops_of_both_forms(seed):
    masks = (torch.rand(4, 9, 11, generator=torch.Generator().manual_seed(seed)) < 0.03).to(torch.uint8)
    outs = []
    for sample in (sample_of(masks, semantic=masks.amax(0)), layered(sample_of(masks, semantic=masks.amax(0)))):
        torch.manual_seed(seed)
        outs.append(RandomCrop((4, 3))(sample))
    assert_same(*outs)


def test_what_cannot_be():
    for wrong in ({"side": 0}, {"side": 8, "factor": (0.0, 1.0)}, {"side": 8, "factor": (2.0, 1.0)}):
        with pytest.raises(ValueError, match="must be positive"):
            ScaleJitter(**wrong)
