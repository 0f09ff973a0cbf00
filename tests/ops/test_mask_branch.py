"""mask_branch: whole mask heads, ours and other detectors'."""

import pytest
import torch
import torchvision

from htc_fast import ops
from htc_fast.ops import MaskHeadWeights
from tests.ops.matrix_cases import compare, draw, on_triton, over_torch, with_dtypes


def layer(*shape, seed, outputs=None):
    return draw(*shape, seed=seed, scale=0.1), draw(outputs or shape[0], seed=seed)


def heads(number=3, channels=16, outputs=24, classes=5, convolutions=4, flow=True):
    return [
        MaskHeadWeights(
            tuple(layer(channels, channels, 3, 3, seed=10 * t + k) for k in range(convolutions)),
            layer(channels, outputs, 2, 2, seed=t, outputs=outputs),
            layer(classes, outputs, 1, 1, seed=t),
            layer(channels, channels, 1, 1, seed=t) if flow and t else None,
        )
        for t in range(number)
    ]


def like(x: torch.Tensor, some: list[MaskHeadWeights]) -> list[MaskHeadWeights]:
    """The weights in x's type, where x is."""

    def to(one):
        if isinstance(one, torch.Tensor):
            return one.to(x)
        return None if one is None else tuple(to(part) for part in one)

    return [MaskHeadWeights(*to(one)) for one in some]


CASES = {
    "cascade": {"convolutions": 2},
    "odd channels": {"channels": 19, "outputs": 33, "number": 2, "convolutions": 1},
    "no flow": {"flow": False, "convolutions": 1},
    "one head": {"number": 1},
    "no convolutions": {"convolutions": 0},
}
LABELS = torch.tensor([3, -1, 0, 4, 7])


@pytest.mark.parametrize("name, dtype, column", with_dtypes("mask_branch", CASES))
def test_equals_reference(name, column, dtype):
    some = heads(**CASES[name])
    x = draw(5, some[0].upsample[0].shape[0], 4, 6)
    out = compare(lambda x: ops.mask_branch(x, LABELS.to(x.device), like(x, some)), [x], column, dtype, backward=False)
    assert out.dtype == torch.float32 and out.shape == (5, 8, 12)
    assert [bool(one.any()) for one in out] == [True, False, True, True, False]


@pytest.mark.parametrize("column", over_torch("mask_branch"))
@pytest.mark.parametrize("averaged", [[0], [1, 2], [2]])
def test_some_of_the_heads(averaged, column):
    some = heads(convolutions=1)
    call = lambda x: ops.mask_branch(x, LABELS.to(x.device), like(x, some), averaged=averaged)  # noqa: E731
    out = compare(call, [draw(5, 16, 3, 3)], column, backward=False)
    assert [bool(one.any()) for one in out] == [True, False, True, True, False]


@pytest.mark.parametrize("column", over_torch("mask_branch"))
def test_nothing_wanted_and_nothing_there(column):
    x = draw(3, 16, 4, 4).to(column.device)
    with ops.use_backend(column.backend):
        assert not ops.mask_branch(x, torch.full((3,), -1, device=x.device), like(x, heads())).any()
        assert ops.mask_branch(x[:0], LABELS[:0].to(x.device), like(x, heads())).shape == (0, 8, 8)


@pytest.mark.parametrize("column", over_torch("mask_branch"))
def test_torchvisions_head(column):
    torch.manual_seed(0)
    features = torchvision.models.detection.mask_rcnn.MaskRCNNHeads(16, (16, 16), 1)
    predictor = torchvision.models.detection.mask_rcnn.MaskRCNNPredictor(16, 24, 5)
    features.to(column.device), predictor.to(column.device)
    x, labels = draw(3, 16, 6, 6).to(column.device), torch.tensor([4, 0, 2], device=column.device)
    with torch.no_grad():
        wanted = predictor(features(x)).sigmoid()[torch.arange(3), labels]
    with ops.use_backend(column.backend):
        found = ops.mask_branch(x, labels, [ops.mask_head_weights(features, predictor)])
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("column", on_triton("mask_branch"))
def test_opcheck(column):
    first, second = column.give(heads(number=2, convolutions=1))
    layers = *first.convolutions, first.upsample, first.logits, second.flow, *second.convolutions, second.upsample
    tensors = [one for layer in (*layers, second.logits) for one in layer]
    given = column.give((draw(5, 16, 3, 3), LABELS, tensors))
    torch.library.opcheck(torch.ops.htc_fast_triton.mask_branch.default, (*given, [1, 1], [False, True], [0, 1]))


@pytest.mark.parametrize("column", over_torch("mask_branch"))
def test_compile_and_export(column):
    x, labels, some = column.give((draw(5, 16, 3, 3), LABELS, heads(number=2, convolutions=1)))
    torch.compiler.reset()  # else the graph of the column before, which no guard tells from this one's

    class Branch(torch.nn.Module):
        def forward(self, x):
            return ops.mask_branch(x, labels, some)

    with ops.use_backend(column.backend):
        want = Branch()(x)
        torch.testing.assert_close(torch.compile(Branch(), backend="aot_eager", fullgraph=True)(x), want)
        torch.testing.assert_close(torch.export.export(Branch(), (x,)).module()(x), want)


def test_errors():
    x, some = draw(5, 16, 3, 3), heads()
    other = some[1]
    for arguments, options, said in (
        ((x, LABELS, []), {}, "at least one"),
        ((x, LABELS[:2], some), {}, r"labels must be \[5\]"),
        ((x, LABELS, some[1:]), {}, "no head before it"),
        ((x[:, :3], LABELS, some), {}, "expects 16 channels, gets 3"),
        ((x, LABELS, some), {"averaged": [3]}, "averaged must be an integer from 0 to 2"),
        ((x, LABELS, some), {"averaged": []}, "heads 0 to 2"),
        ((x, LABELS.to("meta"), some), {}, "move them together"),
        ((x, LABELS == 1, some), {}, "int32 or int64"),
        ((x, LABELS, [some[0], other._replace(flow=some[1].upsample)]), {}, r"flow must be \[O, C, 1, 1\]"),
        (
            (x, LABELS, [some[0], other._replace(flow=layer(16, 9, 1, 1, seed=0))]),
            {},
            "flow expects 9 channels, gets 16",
        ),
        ((x, LABELS, [some[0], other._replace(flow=layer(9, 16, 1, 1, seed=0))]), {}, "flow must end in x's 16"),
        (
            (x, LABELS, [other._replace(flow=None, upsample=layer(9, 24, 2, 2, seed=0, outputs=24))]),
            {},
            "upsample expects 9 channels, gets 16",
        ),
        ((x, LABELS, [some[0]._replace(logits=layer(5, 9, 1, 1, seed=0))]), {}, "logits expects 9 channels, gets 24"),
        ((x, LABELS, [some[0], other._replace(logits=layer(7, 24, 1, 1, seed=0))]), {}, "must have 5 classes"),
    ):
        with pytest.raises(ValueError, match=said):
            ops.mask_branch(*arguments, **options)
    with pytest.raises(ValueError, match="got Conv2d 1x1"):
        ops.mask_head_weights(torch.nn.Conv2d(3, 3, 1))


class Detectron(torch.nn.Module):
    """Laid out as detectron2's head: a convolution of its own class, the ReLU a function."""

    class Conv2d(torch.nn.Conv2d):
        pass

    def __init__(self, norm: bool = False):
        super().__init__()
        self.mask_fcn1 = self.Conv2d(16, 16, 3, padding=1, bias=not norm)
        if norm:
            self.mask_fcn1.norm = torch.nn.BatchNorm2d(16)
        self.deconv, self.deconv_relu = torch.nn.ConvTranspose2d(16, 24, 2, stride=2), torch.nn.ReLU()
        self.predictor = self.Conv2d(24, 5, 1)


def test_detectron2s_head():
    one = Detectron()
    x, labels = draw(3, 16, 6, 6), torch.tensor([4, 0, 2])
    with torch.no_grad():
        logits = one.predictor(one.deconv_relu(one.deconv(one.mask_fcn1(x).relu())))
    found = ops.mask_branch(x, labels, [ops.mask_head_weights(one)])
    torch.testing.assert_close(found, logits.sigmoid()[torch.arange(3), labels], rtol=1e-3, atol=1e-3)


def test_convolutions_that_make_weights_of_their_weights_are_refused():
    class Standardised(torch.nn.Conv2d):
        def forward(self, x):
            return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)

    class Named(torch.nn.Conv2d):
        """Computes what it inherits."""

    last = [torch.nn.ConvTranspose2d(8, 8, 2, 2), torch.nn.Conv2d(8, 3, 1)]
    assert len(ops.mask_head_weights(torch.nn.Sequential(Named(8, 8, 3, padding=1), *last)).convolutions) == 1
    with pytest.raises(ValueError, match="got Standardised, ConvTranspose2d"):
        ops.mask_head_weights(torch.nn.Sequential(Standardised(8, 8, 3, padding=1), *last))


def test_mmdetections_flow_is_taken_and_missing_biases_are_zeros():
    one = Detectron()
    one.conv_res, one.mask_fcn1.bias = torch.nn.Conv2d(16, 16, 1), None
    weights = ops.mask_head_weights(one)
    assert weights.flow[0] is one.conv_res.weight and not weights.convolutions[0][1].any()


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda: Detectron(norm=True), "BatchNorm2d"),
        (lambda: torch.nn.Sequential(torch.nn.Conv2d(16, 16, 3)), "got Conv2d 3x3"),
        (lambda: torch.nn.Sequential(torch.nn.Conv2d(16, 16, 3, padding=2, dilation=2)), "padding 2 dilation 2"),
        (lambda: torch.nn.Sequential(torch.nn.Conv2d(16, 16, 3, padding=1, groups=4)), "groups 4"),
    ],
)
def test_other_heads_are_refused(change, said):
    """What the kernels do not compute must not be left out without a word."""
    with pytest.raises(ValueError, match=said):
        ops.mask_head_weights(change())
