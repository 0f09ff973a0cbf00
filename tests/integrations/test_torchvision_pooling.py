"""torchvision's modules of RoI pooling, ours in their place: what a user of theirs would notice."""

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import feature_extraction

from htc_fast.integrations.torchvision import MultiScaleRoIAlign, RoIAlign, accelerate
from tests.integrations.test_pooling import boxes, pyramid
from tests.integrations.torchvision_cases import made

NAMES = ["0", "1", "2", "3"]
SHAPES = [(190, 256), (192, 250)]
Theirs = torchvision.ops.MultiScaleRoIAlign


def maps(*names, height=192, width=256):
    return {name: one for name, one in zip(NAMES, pyramid(height=height, width=width)) if name in (names or NAMES)}


def both(names, found, given, shapes=SHAPES, size=7):
    """The features of both, torchvision's first."""
    return [kind(names, size, 2)(found, given, shapes) for kind in (Theirs, MultiScaleRoIAlign)]


def test_levels_are_read_in_the_order_of_the_maps():
    given = [boxes(40, 1), boxes(9, 2)]
    wanted, got = both(["2", "1", "0"], maps(), given)
    straight = MultiScaleRoIAlign(["0", "1", "2"], 7, 2)(maps(), given, SHAPES)
    torch.testing.assert_close(got, wanted)
    assert torch.equal(got, straight) and wanted.abs().sum() > 0


def test_features_can_be_viewed_flat():
    pooled = MultiScaleRoIAlign(NAMES, 7, 2)(maps(), [boxes(4, 1), boxes(2, 2)], SHAPES)
    assert pooled.is_contiguous() and pooled.view(6, -1).shape == (6, 5 * 49)
    one = RoIAlign(7, 0.25, 2)(pyramid()[0], [boxes(4, 1), boxes(2, 2)])
    assert one.view(6, -1).shape == (6, 5 * 49)


def test_scales_are_those_of_the_first_call():
    theirs, ours = Theirs(NAMES, 7, 2), MultiScaleRoIAlign(NAMES, 7, 2)
    for height, shape in ((192, (192, 256)), (64, (40, 256))):
        given = maps(height=height), [boxes(20, 1) * (height / 192), boxes(20, 3) * (height / 192)], [shape] * 2
        torch.testing.assert_close(ours(*given), theirs(*given))
        assert ours.scales == theirs.scales == [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    anew = MultiScaleRoIAlign(NAMES, 7, 2)(*given)
    assert (anew - theirs(*given)).abs().max() > 0.01


def test_fewer_lists_than_images():
    wanted, got = both(NAMES, maps(), [boxes(5, 1)])
    torch.testing.assert_close(got, wanted)
    assert got.shape == (5, 5, 7, 7)


@pytest.mark.parametrize("case", ["one size", "a size left out", "coarsest first", "one map"])
def test_maps_that_are_no_pyramid(case):
    found = {
        "one size": {"0": pyramid()[2], "1": pyramid()[2] + 1},
        "a size left out": maps("0", "2"),
        "coarsest first": dict(reversed(maps().items())),
        "one map": maps("1"),
    }[case]
    wanted, got = both(NAMES, found, [boxes(60, 1), boxes(9, 2)])
    torch.testing.assert_close(got, wanted)
    assert len(got) == 69


def test_maps_of_two_types_as_autocast_makes_them():
    found = maps("0", "1")
    found["1"] = found["1"].double()
    assert torch.isfinite(MultiScaleRoIAlign(NAMES, 7, 2)(maps("0"), [boxes(5, 1)], SHAPES)).all()
    with pytest.raises(RuntimeError):
        Theirs(NAMES, 7, 2)(found, [boxes(60, 1)], SHAPES)
    with pytest.raises(RuntimeError):
        MultiScaleRoIAlign(NAMES, 7, 2)(found, [boxes(60, 1)], SHAPES)


def test_words():
    given = (NAMES, (7, 5), 2)
    assert repr(MultiScaleRoIAlign(*given)) == repr(Theirs(*given))
    assert repr(RoIAlign(7, 0.5, 2, aligned=True)) == repr(torchvision.ops.RoIAlign(7, 0.5, 2, aligned=True))


@pytest.mark.parametrize("aligned", [False, True])
def test_roi_align(aligned):
    found, given = pyramid()[1], [boxes(30, 1), boxes(4, 2)]
    made_by = [kind((7, 5), 1 / 8, 0, aligned) for kind in (torchvision.ops.RoIAlign, RoIAlign)]
    wanted, got = (one(found, given) for one in made_by)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    assert isinstance(made_by[1], torchvision.ops.RoIAlign) and got.shape == (34, 5, 7, 5)


def test_roi_align_in_a_traced_graph():
    module, given = RoIAlign(7, 0.25, 2), (pyramid()[0], [boxes(20, 1), boxes(3, 2)])
    traced = torch.fx.symbolic_trace(module)
    assert [node.op for node in traced.graph.nodes] == ["placeholder", "placeholder", "call_function", "output"]
    assert torch.equal(traced(*given), module(*given))


class Model(nn.Module):
    """A detector of a few lines."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 5, 4, stride=4)
        self.pool = MultiScaleRoIAlign(["0"], 7, 2)
        self.head = nn.Linear(5 * 49, 2)

    def forward(self, x, given: list[torch.Tensor]):
        return self.head(self.pool({"0": self.body(x)}, given, [(64, 64)]).flatten(1))


def test_feature_extractor():
    model, x, given = Model(), torch.rand(1, 3, 64, 64), [boxes(6, 1) / 4]
    found = feature_extraction.create_feature_extractor(model, ["pool"])(x, given)["pool"]
    assert found.shape == (6, 5, 7, 7)
    torch.testing.assert_close(found, model.pool({"0": model.body(x)}, given, [(64, 64)]))


def test_feature_extractor_of_an_accelerated_backbone():
    backbone = accelerate(nn.ModuleDict({"model": made("fasterrcnn_mobilenet_v3_large_320_fpn")}))["model"].backbone
    x = torch.rand(1, 3, 64, 96)
    found = feature_extraction.create_feature_extractor(backbone, ["body.4", "fpn"])(x)
    assert list(found) == ["body.4", "fpn"]
    with torch.no_grad():
        torch.testing.assert_close(found["fpn"]["0"], backbone(x)["0"], rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_script():
    module = MultiScaleRoIAlign(NAMES, 7, 2)
    scripted = torch.jit.script(module)
    for height in (192, 128):
        given = maps(height=height), [boxes(20, 1), boxes(3, 3)], [(height, 256)] * 2
        torch.testing.assert_close(scripted(*given), module(*given), rtol=0, atol=0)
    skipping = maps("0", "2"), [boxes(60, 1), boxes(3, 3)], SHAPES
    fresh = torch.jit.script(MultiScaleRoIAlign(NAMES, 7, 2))
    torch.testing.assert_close(fresh(*skipping), Theirs(NAMES, 7, 2)(*skipping))
    one = torch.jit.script(RoIAlign(7, 0.25, 2, True))
    torch.testing.assert_close(
        one(pyramid()[0], [boxes(20, 1)]), RoIAlign(7, 0.25, 2, True)(pyramid()[0], [boxes(20, 1)])
    )


class Pooled(nn.Module):
    """Of tensors alone, as a tracer wants it."""

    def __init__(self):
        super().__init__()
        self.pool = MultiScaleRoIAlign(NAMES, 7, 2)

    def forward(self, first, second, *found):
        return self.pool(dict(zip(NAMES, found)), [first, second], SHAPES)


@pytest.mark.filterwarnings("ignore")
def test_a_trace_takes_other_numbers_of_boxes():
    module, first = Pooled(), (boxes(3, 1), boxes(5, 2), *pyramid())
    module(*first)  # which finds the scales
    traced = torch.jit.trace(module, first)
    for counts in ((7, 2), (0, 4), (60, 60)):
        given = [boxes(count, seed) for seed, count in enumerate(counts)]
        got = traced(*given, *pyramid())
        assert got.shape == (sum(counts), 5, 7, 7)
        torch.testing.assert_close(got, Theirs(NAMES, 7, 2)(maps(), given, SHAPES))
