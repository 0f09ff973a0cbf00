"""Guided anchoring against the definition, place by place; and what a detector with it goes through."""

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision

import htc_fast
from htc_fast.errors import UserError
from htc_fast.inference.export import waits
from htc_fast.inference.layout import prepare
from htc_fast.inference.merged import merged_rpn
from htc_fast.models import zoo
from htc_fast.models.guided_rpn import GuidedRPN
from htc_fast.models.htc import HTC
from htc_fast.models.weights import fit
from htc_fast.models.weights.load import load_weights, read
from tests.models.test_family import STRIDES, decode
from tests.models.test_zoo import tiny

SIZES = torch.tensor([[60, 90], [64, 96]])
SIDES = [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]


def network(channels=8, **options):
    """Weights large enough that every map varies, and a third of the places are unlikely ones."""
    torch.manual_seed(0)
    rpn = GuidedRPN(channels, zoo.config("htc_r50_ga", **options).rpn)
    for name, one in rpn.named_parameters():
        torch.nn.init.normal_(one, std=0.5 if name.startswith("adaption.off") else 2 / math.sqrt(one[0].numel()))
    rpn.location.bias.data.fill_(-3.0)
    rpn.shape.weight.data *= 4
    rpn.objectness.weight.data *= 0.2
    return rpn


def maps(channels=8):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, channels, *side, generator=generator) for side in SIDES]


def adapted(rpn, hidden, shape):
    """A 3x3 convolution that looks, in each quarter of the channels, where the shape says."""
    count, channels, height, width = hidden.shape
    offsets = F.conv2d(shape, rpn.adaption.offsets.weight).view(count, 4, 9, 2, height, width)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    out = 0
    for group in range(4):
        own = slice(group * channels // 4, (group + 1) * channels // 4)
        for tap in range(9):
            at_y = y + tap // 3 - 1 + offsets[:, group, tap, 0]
            at_x = x + tap % 3 - 1 + offsets[:, group, tap, 1]
            # Zeros around, so that no side is of one pixel.
            padded, grid = F.pad(hidden[:, own], (1, 1, 1, 1)), []
            for at, length in ((at_x, width), (at_y, height)):
                grid.append((at + 1) * 2 / (length + 1) - 1)
            seen = F.grid_sample(padded, torch.stack(grid, dim=3), align_corners=True)
            out = out + F.conv2d(seen, rpn.adaption.weight[:, own, tap // 3, tap % 3][..., None, None])
    return F.relu(out)


def outputs_of(rpn, features):
    found = []
    for one in features:
        hidden = F.relu(rpn.conv(one))
        location, shape = rpn.location(hidden), rpn.shape(hidden)
        here = adapted(rpn, hidden, shape)
        found.append((location, shape, rpn.objectness(here), rpn.deltas(here)))
    return [list(kind) for kind in zip(*found)]


def guided_anchors(shape, stride, scale=8):
    """shape [2, h, w] -> [h * w, 4]."""
    shape, rows = shape.detach(), []
    for y in range(shape.shape[1]):
        for x in range(shape.shape[2]):
            w, h = (scale * stride * math.exp(0.14 * float(one)) for one in shape[:, y, x])
            rows.append([x * stride - w / 2, y * stride - h / 2, x * stride + w / 2, y * stride + h / 2])
    return torch.tensor(rows)


def proposals_of(outputs, n, size, per_level, limit, least):
    """Boxes and scores of one image, best first."""
    boxes, scores = [], []
    for location, shape, objectness, deltas, stride in zip(*outputs, STRIDES):
        anchors = guided_anchors(shape[n], stride)
        likely = location[n, 0].sigmoid().flatten() >= least
        score, moves = objectness[n, 0].sigmoid().flatten()[likely], deltas[n].flatten(1).T[likely]
        order = score.argsort(descending=True, stable=True)[:per_level]
        moved = decode(moves[order], anchors[likely][order], (0.07, 0.07, 0.11, 0.11), size)
        real = (moved[:, 2:] > moved[:, :2]).all(1)
        moved, score = moved[real], score[order][real]
        kept = torchvision.ops.nms(moved, score, 0.7)
        boxes.append(moved[kept])
        scores.append(score[kept])
    boxes, scores = torch.cat(boxes), torch.cat(scores)
    best = scores.argsort(descending=True, stable=True)[:limit]
    return boxes[best], scores[best]


def test_maps_are_the_definition_s():
    rpn = network()
    found, want = rpn(maps()), outputs_of(rpn, maps())
    for kind, other in zip(found, want, strict=True):
        for one, two in zip(kind, other, strict=True):
            assert two.std() > 0.1 or one.numel() < 5
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("least", [0.0, 0.01, 0.5])
@torch.no_grad()
def test_proposals_are_the_definition_s(least):
    rpn = network()
    outputs = rpn(maps())
    boxes, scores, valid = rpn.propose(outputs, SIZES, 40, 60, least)
    assert boxes.shape == (2, 60, 4) and scores.shape == valid.shape == (2, 60)
    for n in range(2):
        want, want_scores = proposals_of(outputs, n, SIZES[n].tolist(), 40, 60, least)
        assert int(valid[n].sum()) == len(want) > 10 and not valid[n, len(want) :].any()
        torch.testing.assert_close(scores[n, : len(want)], want_scores, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(boxes[n, : len(want)], want, rtol=1e-4, atol=1e-3)
        assert not boxes[n, len(want) :].any() and not scores[n, len(want) :].any()


def test_a_place_proposes_from_one_percent_on():
    rpn = network()
    one = [[torch.full((1, count, 1, 1), value)] for count, value in ((1, 0.0), (2, 0.0), (1, 1.0), (4, 0.0))]
    outputs = [kind + [torch.full((1, kind[0].shape[1], 0, 0), 0.0)] * 4 for kind in one]
    for probability, count in ((0.0101, 1), (0.0099, 0)):
        outputs[0][0] = torch.full((1, 1, 1, 1), math.log(probability / (1 - probability)))
        boxes, scores, valid = rpn.propose(outputs, SIZES[:1], 5, 3)
        assert valid.tolist() == [[count == 1, False, False]]
        # The square of side 32 around the corner, clipped.
        assert boxes[0, 0].tolist() == [0, 0, 16 * count, 16 * count]
        assert scores[0, 0].item() == pytest.approx(count / (1 + math.exp(-1)))


def test_what_is_not_finite_proposes_nothing_and_stops_nothing():
    rpn, features = network(), maps()
    features[0][0, :, 3, 5] = torch.nan
    outputs = rpn(features)
    outputs[2][1][1, 0, 0, 0], outputs[3][2][1, 3, 1, 1] = torch.nan, torch.inf
    boxes, scores, valid = rpn.propose(outputs, SIZES, 400, 300, 0.0)
    assert boxes.isfinite().all() and scores.isfinite().all() and valid.sum() > 100


def test_first_weights():
    torch.manual_seed(0)
    rpn = GuidedRPN(256, zoo.GUIDED)
    assert rpn.location.bias.item() == pytest.approx(-math.log(99))
    spread = {name: one.std().item() for name, one in rpn.named_parameters() if name.endswith("weight")}
    assert spread.pop("adaption.offsets.weight") == pytest.approx(0.1, rel=0.2)
    assert spread.keys() == {
        f"{name}.weight" for name in ("conv", "location", "shape", "objectness", "deltas", "adaption")
    }
    assert all(one == pytest.approx(0.01, rel=0.2) for one in spread.values())
    assert {name: tuple(one.shape) for name, one in rpn.named_parameters() if "adaption" in name} == {
        "adaption.offsets.weight": (72, 2, 1, 1),
        "adaption.weight": (256, 256, 3, 3),
    }


def test_offsets_teach_the_shape_nothing():
    rpn = network()
    _, _, objectness, deltas = rpn(maps())
    sum(one.sum() for one in (*objectness, *deltas)).backward()
    assert rpn.shape.weight.grad is None and rpn.location.weight.grad is None
    for one in (rpn.adaption.weight, rpn.adaption.offsets.weight, rpn.conv.weight):
        assert one.grad.abs().sum() > 0


def test_merged_it_is_the_same():
    rpn = network(32)
    merged = merged_rpn(rpn)
    for kind, other in zip(merged(maps(32)), rpn(maps(32)), strict=True):
        for one, two in zip(kind, other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


def detector(**options):
    """With proposals whose scores lie apart."""
    model = tiny("htc_r50_ga", **options).eval()
    for one, factor in ((model.rpn.objectness, 300), (model.rpn.shape, 300), (model.rpn.deltas, 30)):
        one.weight.data *= factor
    model.rpn.location.bias.data.fill_(0.0)
    return model


def test_optimized_it_finds_the_same():
    model, images = detector(), torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    want = model.detect(images, SIZES)
    found = htc_fast.optimize(model, (64, 96), 2, torch.float32).detect(images, SIZES)
    assert torch.equal(found.labels, want.labels) and want.count.min() > 0
    for name in ("boxes", "scores", "masks"):
        torch.testing.assert_close(getattr(found, name), getattr(want, name), rtol=1e-4, atol=1e-4)
    half = prepare(model, torch.bfloat16).detect(images, SIZES)
    torch.testing.assert_close(half.scores, want.scores, rtol=0.05, atol=0.02)


def test_beside_a_global_convolutional_network():
    model = tiny("htc_r50_gcn", rpn="ga", rpn_proposals=30, rpn_proposals_per_level=50).eval()
    assert isinstance(model.rpn, GuidedRPN) and model.config.gcn
    assert model.detect(torch.randn(2, 3, 64, 96), SIZES).count.min() > 0


class Proposals(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.rpn = network().requires_grad_(False)

    def forward(self, features, image_sizes):
        return self.rpn.propose(self.rpn(features), image_sizes, 40, 60)


def test_exported_it_never_waits():
    program = torch.export.export(Proposals(), (maps(), SIZES), strict=False)
    assert waits(program) == []
    # Other features: fixed shapes, nothing kept of those that it was made with.
    features = [one.flip(0) + 0.1 for one in maps()]
    for found, want in zip(program.module()(features, SIZES), Proposals()(features, SIZES), strict=True):
        assert torch.equal(found, want) and want.any()


def test_what_cannot_be_guided():
    with pytest.raises(UserError, match="leave rpn_whole_anchors or rpn_guided"):
        tiny("htc_r50_ga", rpn_whole_anchors=True)
    with pytest.raises(UserError, match="a multiple of 4, got 18"):
        tiny("htc_r50_ga", channels=18)


THEIRS = {
    "rpn_conv": "conv",
    "conv_loc": "location",
    "conv_shape": "shape",
    "feature_adaption.conv_offset": "adaption.offsets",
    "feature_adaption.conv_adaption": "adaption",
    "conv_cls": "objectness",
    "conv_reg": "deltas",
}


def test_mmdetection_s_weights(tmp_path):
    state = tiny("htc_r50_ga").state_dict()
    theirs = {key: value for key, value in state.items() if not key.startswith("rpn.")}
    for name, ours in THEIRS.items():
        values = {key: value for key, value in state.items() if key.rpartition(".")[0] == f"rpn.{ours}"}
        theirs |= {f"rpn_head.{name}.{key.rpartition('.')[2]}": value for key, value in values.items()}
    assert len(theirs) == len(state)
    torch.save({"state_dict": theirs}, tmp_path / "theirs.pth")
    file = read(tmp_path / "theirs.pth", 3)
    assert file.built["rpn"] == "ga"
    model = tiny("htc_r50_ga")
    model.rpn.requires_grad_(False)
    for one in model.rpn.parameters():
        one.zero_()
    assert str(load_weights(model, file)) == "every tensor fitted"
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_the_names_that_fit_know_the_anchors():
    with torch.device("meta"):
        assert fit.fitting(HTC(zoo.config("htc_r50_ga")).state_dict()) == ["htc_r50_ga"]
