"""Recursive feature pyramid: its two steps written out, the gate, what is frozen, and what cannot take feedback."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from htc_fast import UserError
from htc_fast.models import backbone as backbones
from htc_fast.models.norm import JointBatchNorm
from htc_fast.models.rfp import Context, RecursivePyramid, blank, feedback_channels
from tests.criterion.test_family_losses import targets
from tests.inference.test_fuse import settled
from tests.models import test_family
from tests.models.test_sac import stirred
from tests.models.test_zoo import tiny


def trained(name="detectors_htc_r50_rfp", **fields):
    """A model of which no part is without effect."""
    return stirred(settled(tiny(name, **fields)))


def functions(state):
    """Convolution, norm, and the residual blocks made of both, of the tensors of a model, as the papers say."""

    def conv(x, name, stride=1, padding=0, dilation=1):
        weight, bias = state[f"{name}.weight"], state.get(f"{name}.bias")
        if f"{name}.weight_std" in state:
            rows = weight.flatten(1)
            rows = (rows - rows.mean(1, keepdim=True)) / (rows.var(1, keepdim=True) + 1e-5).sqrt()
            weight = rows.view_as(weight) * state[f"{name}.weight_std"] + state[f"{name}.weight_mean"]
        return F.conv2d(x, weight, bias, stride, padding, dilation)

    def norm(x, name):
        mean, variance, weight, bias = (
            state[f"{name}.{one}"][:, None, None] for one in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * weight + bias

    def block(x, name, stride, feedback=None):
        y = F.relu(norm(conv(x, f"{name}.conv1"), f"{name}.bn1"))
        y = F.relu(norm(conv(y, f"{name}.conv2", stride, 1), f"{name}.bn2"))
        y = norm(conv(y, f"{name}.conv3"), f"{name}.bn3")
        if f"{name}.downsample.0.weight" in state:
            x = norm(conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
        if feedback is None:
            return F.relu(y + x)
        return F.relu(y + x + conv(feedback, f"{name}.feedback"))

    def resnet(x, name, feedback=(None,) * 4):
        x = F.max_pool2d(F.relu(norm(conv(x, f"{name}.conv1", 2, 3), f"{name}.bn1")), 3, 2, 1)
        maps = []
        for stage in range(4):
            x = block(x, f"{name}.layer{stage + 1}.0", 1 if stage == 0 else 2, feedback[stage])
            x = block(x, f"{name}.layer{stage + 1}.1", 1)  # two blocks in each stage of ResNet-26
            maps.append(x)
        return maps

    def fpn(maps):
        sums = [conv(one, f"fpn.lateral.{k}") for k, one in enumerate(maps)]
        for k in (2, 1, 0):
            sums[k] = sums[k] + sums[k + 1].repeat_interleave(2, 2).repeat_interleave(2, 3)
        outputs = [conv(one, f"fpn.output.{k}", padding=1) for k, one in enumerate(sums)]
        return [*outputs, outputs[3][:, :, ::2, ::2]]

    def aspp(x):
        rates = (("branches.0", 1, 0), ("branches.1", 3, 3), ("branches.2", 6, 6))
        near = [F.relu(conv(x, f"rfp.aspp.{name}", 1, pad, rate)) for name, rate, pad in rates]
        mean = F.relu(conv(x.mean((2, 3), keepdim=True), "rfp.aspp.pooled"))
        return torch.cat([*near, mean + torch.zeros_like(near[0])], 1)

    return conv, resnet, fpn, aspp


@pytest.mark.parametrize("steps", [2, 3])
@torch.no_grad()
def test_definition(steps):
    """Both passes, layer by layer; the gate is that of the newer pyramid, at every level, P6 too."""
    model = trained(backbone="resnet26", fpn_steps=steps).eval()
    images = torch.randn(2, 3, 64, 96)
    conv, resnet, fpn, aspp = functions(model.state_dict())
    want = fpn(resnet(images, "backbone.net"))
    for step in range(steps - 1):
        feedback = [None, *(aspp(one) for one in want[1:4])]
        newer, older = fpn(resnet(images, f"rfp.backbones.{step}.net", feedback)), want
        gates = [1 / (1 + torch.exp(-conv(one, "rfp.gate"))) for one in newer]
        want = [gate * one + (1 - gate) * other for gate, one, other in zip(gates, newer, older)]
        assert min(float((one - other).abs().max()) for one, other in zip(newer, older)) > 0.01
    found = model.extract(images)
    assert len(found) == 5
    for one, other in zip(found, want):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


@torch.no_grad()
def test_the_gate_s_ends():
    model = trained().eval()
    images = torch.randn(1, 3, 64, 96)
    first, second = model.fpn(model.backbone(images)), {}
    nn.init.zeros_(model.rfp.gate.weight)
    for bias in (-100.0, 0.0, 100.0):
        nn.init.constant_(model.rfp.gate.bias, bias)
        second[bias] = model.extract(images)
    for old, found, middle, new in zip(first, *second.values()):
        torch.testing.assert_close(found, old)
        torch.testing.assert_close(middle, (old + new) / 2, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(old, new, atol=1e-2)


@torch.no_grad()
def test_the_feedback_starts_at_zero_and_changes_three_stages():
    model = settled(tiny("detectors_htc_r50_rfp")).eval()
    step, images = model.rfp.backbones[0], torch.randn(1, 3, 64, 96)
    back = [torch.randn_like(one) for one in blank(images, step.feedback)]
    assert [list(one.shape) for one in back] == [[1, 16, 8, 12], [1, 16, 4, 6], [1, 16, 2, 3]]
    none = step(images, blank(images, step.feedback))
    assert all(torch.equal(one, other) for one, other in zip(step(images, back), none))
    stirred(step)
    changed = [not torch.allclose(one, other) for one, other in zip(step(images, back), none)]
    assert changed == [False, True, True, True]


def test_shapes_of_the_context():
    assert [feedback_channels(one) for one in (256, 18, 4, 1)] == [256, 16, 4, 4]
    assert Context(18)(torch.randn(2, 18, 3, 5)).shape == (2, 16, 3, 5)
    assert [one.dilation for one in Context(16).branches] == [(1, 1), (3, 3), (6, 6)]
    gate = RecursivePyramid([], 16).gate
    assert not gate.weight.any() and not gate.bias.any()  # both steps count the same at first


def test_gradients_reach_every_parameter():
    fields = {"rpn_allowed_border": -1.0, "rpn_samples": 2000, "rpn_positive_fraction": 0.1, "samples": 32}
    limits = {"rpn_train_proposals_per_level": 100, "rpn_train_proposals": 60, "frozen_stages": 0}
    model = trained("detectors_htc_r50", **fields, **limits).train()
    sum(model.losses(torch.randn(3, 3, 64, 96), test_family.SIZES, targets()).values()).backward()
    assert [key for key, one in model.named_parameters() if one.grad is None or not one.grad.any()] == []
    assert all(one.grad.isfinite().all() for one in model.parameters())


def test_what_is_frozen_in_both_backbones():
    model = tiny("detectors_htc_r50", frozen_stages=2, fpn_steps=3).train()
    for net in (model.backbone.net, *(one.net for one in model.rfp.backbones)):
        frozen = {name.split(".")[0] for name, one in net.named_parameters() if not one.requires_grad}
        free = {name.split(".")[0] for name, one in net.named_parameters() if one.requires_grad}
        assert frozen == {"conv1", "bn1", "layer1", "layer2"} and free == {"layer3", "layer4"}
        assert not any(one.training for one in net.modules() if isinstance(one, nn.BatchNorm2d))
    assert not model.rfp.backbones[1].net.layer2[0].feedback.weight.requires_grad
    assert all(one.requires_grad for part in (model.rfp.aspp, model.rfp.gate) for one in part.parameters())
    free = tiny("detectors_htc_r50_rfp", frozen_stages=1, norm_eval=False).train()
    for net in (free.backbone.net, free.rfp.backbones[0].net):
        norms = {name: one.training for name, one in net.named_modules() if isinstance(one, nn.BatchNorm2d)}
        assert norms == {name: not name.startswith(("conv1", "bn1", "layer1")) for name in norms}


def test_joint_norms_in_both_backbones():
    model = tiny("detectors_htc_r50_rfp", norm="syncbn")
    norms = [one for one in model.rfp.modules() if isinstance(one, nn.BatchNorm2d)]
    assert norms and all(isinstance(one, JointBatchNorm) for one in norms)


def test_both_backbones_start_from_imagenet_s_weights(monkeypatch):
    asked, create = [], backbones._create

    def created(name, pretrained, drop_path):
        asked.append((name, pretrained))
        return create(name, False, drop_path)

    monkeypatch.setattr(backbones, "_create", created)
    tiny("detectors_htc_r50_rfp", pretrained=True)
    assert asked == [("test_resnet", True)] * 2


def test_modules_behind_the_pyramid_come_once():
    model = trained(neck="pafpn", aspp=True).eval()
    images, calls = torch.randn(1, 3, 64, 96), []
    for name in ("fpn", "pafpn", "aspp", "rfp.aspp"):
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.append(name))
    with torch.no_grad():
        assert [tuple(one.shape[2:]) for one in model.extract(images)] == [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
    assert calls == ["fpn", *["rfp.aspp"] * 3, "fpn", "pafpn", "aspp"]


def test_the_paper_s_model_by_its_sizes():
    with torch.device("meta"):
        model = tiny("detectors_htc_r50_rfp", backbone="resnet50", channels=256)
    counts = {name: sum(one.numel() for one in part.parameters()) for name, part in model.rfp.named_children()}
    feedback = sum(256 * width + width for width in (512, 1024, 2048))
    assert counts["backbones"] == 23_508_032 + feedback and counts["gate"] == 257
    assert counts["aspp"] == 2 * (256 * 64 + 64) + 2 * (256 * 64 * 9 + 64)


@pytest.mark.parametrize(
    "name", ["test_convnext", "tf_efficientnet_lite0", "swin_tiny_patch4_window7_224", "legacy_seresnext26_32x4d"]
)
def test_backbones_that_take_no_feedback_are_refused(name):
    sentence = rf"^fpn_steps above 1 lead the pyramid back into a ResNet's residual blocks, and backbone '{name}' has"
    with pytest.raises(UserError, match=sentence):
        tiny("detectors_htc_r50_rfp", backbone=name)


def test_recomputed_on_the_way_back_it_is_the_same():
    """timm's gradient checkpointing, which leaves the stem out."""
    step, images = trained().rfp.backbones[0].train(), torch.randn(1, 3, 64, 96)
    back, grads = [torch.randn_like(one) for one in blank(images, step.feedback)], []
    for again in (False, True):
        step.net.set_grad_checkpointing(again)
        step.zero_grad()
        sum(one.square().mean() for one in step(images, back)).backward()
        grads.append({key: one.grad for key, one in step.named_parameters() if one.requires_grad})
    for key, one in grads[0].items():
        torch.testing.assert_close(grads[1][key], one)
