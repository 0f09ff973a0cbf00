"""Every part with batch norms behind its convolutions, and the box head of convolutions, in plain torch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from htc_fast.inference.layout import prepare
from htc_fast.inference.optimize import optimize
from htc_fast.models.backbone import Backbone
from htc_fast.models.box_head import BoxHead
from htc_fast.models.convolution import Convolution
from htc_fast.models.fpn import FPN
from htc_fast.models.mask_head import MaskHead
from htc_fast.models.norm import JointBatchNorm, JointBatchNormAct, join_norms
from htc_fast.models.semantic_head import SemanticHead
from tests.inference.test_fuse import settled
from tests.models.test_zoo import SIZES, tiny

MODES = ["training", "evaluation"]
NORMS = nn.modules.batchnorm._BatchNorm


def ready(part, mode):
    return settled(part).double().train(mode == "training")


def noise(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def normed(conv, x, rows=None):
    """The convolution without a bias, and its norm, in training by the rows that are real."""
    norm, y = conv.norm, F.conv2d(x, conv.weight, padding=conv.kernel_size[0] // 2)
    real = y if rows is None else y[rows]
    mean, variance = real.mean((0, 2, 3)), real.var((0, 2, 3), correction=0)
    if not norm.training:
        mean, variance = norm.running_mean.clone(), norm.running_var.clone()
    mean, scale, bias = (one[:, None, None] for one in (mean, norm.weight / (variance + 1e-5).sqrt(), norm.bias))
    return (y - mean) * scale + bias


def assert_same(part, found, want):
    """Values, and all gradients of a sum in which every number weighs something else."""
    for one, other in zip(found, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    sums = [sum((one.flatten() * torch.arange(one.numel()).sin()).sum() for one in some) for some in (found, want)]
    ours, theirs = (torch.autograd.grad(one, list(part.parameters()), allow_unused=True) for one in sums)
    for one, other in zip(ours, theirs, strict=True):
        if other is not None or one is not None:
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("mode", MODES)
def test_pyramid(mode):
    """Norms and no ReLU behind laterals and outputs, as mmdetection's FPN with norm_cfg."""
    fpn = ready(FPN([4, 6, 8, 10], 12, norm=True), mode)
    maps = [noise(2, count, side, side + 4) for count, side in ((4, 16), (6, 8), (8, 4), (10, 2))]
    sums = [normed(conv, one) for conv, one in zip(fpn.lateral, maps)]
    for level in (2, 1, 0):
        sums[level] = sums[level] + F.interpolate(sums[level + 1], size=sums[level].shape[-2:])
    want = [normed(conv, one) for conv, one in zip(fpn.output, sums)]
    assert_same(fpn, fpn(maps), [*want, want[-1][:, :, ::2, ::2]])
    assert all(conv.bias is None for conv in [*fpn.lateral, *fpn.output])


@pytest.mark.parametrize("mode", MODES)
def test_semantic_branch(mode):
    """The laterals' norms see the resampled maps; the logits have none."""
    head = ready(SemanticHead(8, 5, norm=True), mode)
    maps = [noise(2, 8, side, side + side // 2) for side in (32, 16, 8, 4, 2)]
    x = 0
    for one, conv in zip(maps, head.lateral):
        x = x + F.relu(normed(conv, F.interpolate(one, (16, 24), mode="bilinear", align_corners=True)))
    for conv in head.convs:
        x = F.relu(normed(conv, x))
    want = F.relu(normed(head.embedding, x)), F.conv2d(x, head.logits.weight, head.logits.bias)
    assert_same(head, head(maps), want)


@pytest.mark.parametrize("mode", MODES)
def test_mask_heads(mode):
    """Norms behind the convolutions and the flow's, none behind the deconvolution."""
    head = ready(MaskHead(8, 3, flow=True, norm=True), mode)
    x, before = noise(5, 8, 14, 14), noise(5, 8, 14, 14)
    rows = torch.tensor([1, 1, 0, 1, 0]).bool()
    want = x + F.relu(normed(head.flow, before, rows))
    for conv in head.convs:
        want = F.relu(normed(conv, want, rows))
    assert_same(head, [head.features(x, before, rows)], [want])
    assert type(head.upsample) is nn.ConvTranspose2d and head.logits.bias is not None
    assert sum(isinstance(one, NORMS) for one in head.modules()) == 5


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("norm", [True, False])
def test_box_head_of_four_convolutions(mode, norm):
    """As mmdetection's Shared4Conv1FCBBoxHead."""
    head, x = ready(BoxHead(8, 16, 3, True, convolutions=4, norm=norm), mode), noise(5, 8, 7, 7)
    rows, want = torch.tensor([1, 0, 0, 1, 1]).bool(), x
    for conv in head.convs:
        want = F.relu(normed(conv, want, rows) if norm else F.conv2d(want, conv.weight, conv.bias, padding=1))
    want = F.relu(F.linear(want.flatten(1), head.fc1.weight, head.fc1.bias))
    assert_same(head, head(x, rows), [F.linear(want, one.weight, one.bias) for one in (head.classes, head.deltas)])
    assert head.fc2 is None and not any(key.startswith("fc2") for key in head.state_dict())


@pytest.mark.parametrize("name, kind", [("test_resnet", JointBatchNorm), ("tf_efficientnet_lite0", JointBatchNormAct)])
def test_backbone(name, kind):
    """The same names, maps and statistics as with torch's norms; frozen stages keep theirs."""
    torch.manual_seed(0)
    own, joint = (Backbone(name, False, frozen_stages=1, norm_eval=False) for _ in range(2))
    settled(own)
    joint.load_state_dict(own.state_dict())
    join_norms(joint)
    own.train(), joint.train()
    before = {key: value.clone() for key, value in joint.state_dict().items()}
    images = torch.randn(2, 3, 64, 96)
    for one, other in zip(joint(images), own(images), strict=True):
        assert torch.equal(one, other)
    after = joint.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in own.state_dict().items())
    norms = {key: one for key, one in joint.named_modules() if isinstance(one, NORMS)}
    assert norms and all(isinstance(one, kind) for one in norms.values())
    frozen = {key for key, one in norms.items() if not one.weight.requires_grad}
    assert len(frozen) < len(norms) and (frozen or name != "test_resnet")
    moved = {key for key in norms if not torch.equal(before[f"{key}.running_mean"], after[f"{key}.running_mean"])}
    assert moved == norms.keys() - frozen


def test_where_a_detector_has_norms():
    model = tiny("htc_r50_syncbn").train()
    convolutions = {key: one for key, one in model.named_modules() if isinstance(one, Convolution)}
    assert len(convolutions) == 8 + 5 + 4 + 1 + 3 * 4 + 2 + 3 * 4
    assert all(one.normalises and one.bias is None for one in convolutions.values())
    without = {"classes", "deltas", "fc1", "logits", "upsample"}
    assert all(one.bias is not None for key, one in model.named_modules() if key.split(".")[-1] in without)
    assert not any(isinstance(one, NORMS) for one in model.rpn.modules())
    assert {type(one) for one in model.modules() if isinstance(one, NORMS)} == {JointBatchNorm}
    kept = tiny("htc_r50", norm="syncbn").train()
    assert not any(one.training for one in kept.backbone.modules() if isinstance(one, NORMS))
    assert kept.fpn.output[0].norm.training
    plain = tiny("htc_r50_syncbn", norm="none", box_head="2fc")
    assert plain.state_dict().keys() == tiny("htc_r50").state_dict().keys()


@pytest.mark.parametrize("options", [{}, {"norm": "none"}, {"box_head": "2fc"}], ids=["both", "4conv1fc", "syncbn"])
@torch.no_grad()
def test_what_is_made_ready_has_the_norms_inside(options):
    model, images = settled(tiny("htc_r50_syncbn", **options)), torch.randn(2, 3, 64, 96)
    want = model.detect(images, SIZES)
    for made in (prepare(model, torch.float32, torch.device(device)) for device in ("cpu", "cuda")):
        assert not any(isinstance(one, NORMS) for one in made.modules())
        found = made.detect(images, SIZES)
        assert torch.equal(found.labels, want.labels) and want.count.min() > 0
        for name in ("boxes", "scores", "masks"):
            torch.testing.assert_close(getattr(found, name), getattr(want, name), rtol=1e-4, atol=1e-4)
    low = optimize(model, (64, 96), 2, torch.bfloat16).detect(images, SIZES)
    torch.testing.assert_close(low.scores, want.scores, rtol=0.05, atol=0.02)
    assert all(conv.norm is not None for conv in model.fpn.lateral) == (model.config.norm == "syncbn")
