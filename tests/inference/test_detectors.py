"""DetectoRS made ready for inference: norms and standardised weights folded, every type and layout, and exported."""

import warnings

import pytest
import torch
from torch import nn

from htc_fast.inference import Optimized, optimize
from htc_fast.inference.constant import ConstantSwitch
from htc_fast.inference.export import export_detect, waits
from htc_fast.inference.fuse import FusedConvolution, fuse_convolutions
from htc_fast.inference.layout import ReadyBackbone, prepare
from htc_fast.models.backbone import Backbone
from htc_fast.models.rfp import blank
from htc_fast.models.sac import SwitchableConv2d
from htc_fast.models.standardised import StandardisedConv2d
from tests.inference.test_fuse import settled
from tests.inference.test_layout import GPU, launched
from tests.inference.test_optimize import assert_equal, images
from tests.models.test_rfp import trained
from tests.models.test_sac import stirred
from tests.models.test_zoo import SIZES

NAMES = ("detectors_htc_r50", "detectors_htc_r50_sac", "detectors_htc_r50_rfp")


@torch.no_grad()
def test_everything_is_folded():
    options = {"sac": (4, 5), "standardised": True, "feedback": 8}
    made = stirred(settled(Backbone("resnet26", False, 0, True, **options)))
    net, before = made.net, {key: one.clone() for key, one in made.net.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fused, count = fuse_convolutions(net, feedback=8)
    assert all(torch.equal(one, before[key]) for key, one in net.state_dict().items())
    kinds = [type(one) for one in fused.modules()]
    assert kinds.count(ConstantSwitch) == 4 and count > 40
    assert not {nn.BatchNorm2d, StandardisedConv2d, SwitchableConv2d} & set(kinds)
    # Each of the eight blocks is a sum inside its last convolution; behind the three that are fed it is one more.
    summed = [one for one in fused.graph.nodes if one.op == "call_module" and len(one.args) == 2]
    assert len(summed) == 8 + 3 and all(type(fused.get_submodule(one.target)) is FusedConvolution for one in summed)
    for size in ((64, 96), (32, 160)):
        x = torch.randn(2, 3, *size).contiguous(memory_format=torch.channels_last)
        given = [torch.randn_like(one) for one in blank(x, 8)]
        for found, want in zip(fused(x, *given), net(x, *given), strict=True):
            torch.testing.assert_close(found, want, rtol=0, atol=1e-5 * float(want.abs().max()))


@torch.no_grad()
def test_a_norm_of_zeros_behind_a_switch():
    """Its share of the context is kept beside the sum: nothing divides by it."""
    made = stirred(SwitchableConv2d(nn.Conv2d(4, 6, 3, padding=1, bias=False)))
    norm, x = settled(nn.BatchNorm2d(6)), torch.randn(2, 4, 5, 6)
    norm.weight[:3] = 0.0
    held = ConstantSwitch(made)
    torch.testing.assert_close(held(x), made(x), rtol=1e-4, atol=1e-5)
    want = norm(made(x))
    held.take_in(norm)
    torch.testing.assert_close(held(x), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_float32_equals_the_detector(name):
    model = trained(name).eval()
    want = model.detect(images(), SIZES)
    assert_equal(optimize(model, (64, 96), batch_size=2, dtype=torch.float32).detect(images(), SIZES), want)
    assert_equal(prepare(model, torch.float32, GPU).detect(images(), SIZES), want)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_16_bits_are_as_near_as_under_autocast(dtype):
    model, x = trained("detectors_htc_r50").eval(), images()
    with torch.autocast("cpu", dtype):
        cast = model.extract(x)
    for device in (torch.device("cpu"), GPU):
        made = prepare(model, dtype, device)
        assert all(isinstance(one, ReadyBackbone) and not one.autocasts for one in (made.backbone, *made.rfp.backbones))
        assert {one.dtype for one in (*made.rfp.parameters(), *made.backbone.parameters())} == {dtype}
        for found, want, other in zip(made.extract(x), model.extract(x), cast, strict=True):
            assert found.dtype == dtype
            assert (found.float() - want).norm() <= max(1.3 * (other.float() - want).norm(), 1e-3 * want.norm())
    found = Optimized(model, (64, 96), 2, dtype).detect(x, SIZES)
    assert found.count.min() > 0 and found.masks.isfinite().all()


@torch.no_grad()
def test_what_a_gpu_runs(monkeypatch):
    made = prepare(trained("detectors_htc_r50").eval(), torch.bfloat16, GPU)
    switches = sum(isinstance(one, ConstantSwitch) for one in made.modules())
    found = launched(made, monkeypatch)
    both = {key: found["backbone"].get(key, 0) for key in ("torchvision.deform_conv2d", "aten.convolution")}
    # Nothing is left to cuDNN, and no weight is standardised at a call.
    assert switches == 2 * 5 and both == {"torchvision.deform_conv2d": 2 * switches, "aten.convolution": 0}
    assert "aten.var_mean" not in found["backbone"]


@pytest.mark.slow
@torch.no_grad()
def test_exported_it_waits_for_nothing_and_needs_no_torchvision():
    model = trained("detectors_htc_r50", sac=(5,)).eval()
    program = export_detect(model, (64, 96))
    assert waits(program) == []
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert any("grid_sampler" in name for name in names) and not any("torchvision" in name for name in names)
    torch.manual_seed(3)
    example = torch.randn(1, 3, 64, 96), torch.tensor([[60, 90]])
    found, want = program.module()(*example), model.detect(*example)
    assert torch.equal(found["labels"], want.labels) and want.count.item() > 0
    torch.testing.assert_close(found["boxes"], want.boxes, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found["masks"], want.masks, rtol=1e-4, atol=1e-4)
