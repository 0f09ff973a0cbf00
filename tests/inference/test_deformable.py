"""Deformable convolutions made ready for inference: norms folded in, every type, every layout, and exported."""

import pytest
import torch
from torch import nn

from htc_fast.inference import Optimized, optimize
from htc_fast.inference.export import export_detect, waits
from htc_fast.inference.fuse import FusedConvolution, fuse_convolutions
from htc_fast.inference.layout import prepare
from htc_fast.models.backbone import Backbone
from htc_fast.models.deformable import DeformableConv2d
from tests.inference.test_fuse import assert_same, settled
from tests.inference.test_layout import GPU, launched
from tests.inference.test_optimize import assert_equal, detector, images
from tests.models.test_zoo import SIZES


def pointed(net):
    """Offsets as after training: some pixels, other ones everywhere."""
    torch.manual_seed(1)
    found = [one for one in net.modules() if isinstance(one, DeformableConv2d)]
    for one in found:
        nn.init.normal_(one.conv_offset.weight, std=2 / one.conv_offset.weight[0].numel() ** 0.5)
        nn.init.normal_(one.conv_offset.bias)
    assert found
    return net


def deformed(**overrides):
    return pointed(detector("htc_r50_dcn", **overrides))


@pytest.mark.parametrize("name", ["resnet26", "test_resnet", "regnety_002"])
@torch.no_grad()
def test_norms_are_folded_into_them(name):
    net = pointed(settled(Backbone(name, False, 0, True, dcn=(4, 5)).net))
    moved = {key: one for key, one in net.state_dict().items() if ".conv_offset." in key}
    fused, _ = fuse_convolutions(net)
    assert not any(isinstance(one, nn.modules.batchnorm._BatchNorm) for one in fused.modules())
    made = [one for one in fused.modules() if isinstance(one, DeformableConv2d)]
    assert len(made) == len(moved) // 2
    layers = [one for one in fused.modules() if isinstance(one, FusedConvolution)]
    assert not any(isinstance(one.conv, DeformableConv2d) for one in layers)
    for shape in ((1, 3, 64, 96), (2, 3, 96, 160)):
        assert_same(fused, net, torch.randn(shape).contiguous(memory_format=torch.channels_last))
    plain, _ = fuse_convolutions(settled(Backbone(name, False, 0, True).net))
    # Everything else takes in as much as without them.
    assert len(layers) >= sum(isinstance(one, FusedConvolution) for one in plain.modules()) - len(made)


@pytest.mark.parametrize("options", [{}, {"backbone": "resnet18", "dcn": (3, 4, 5)}], ids=["res5", "c3-c5"])
def test_float32_equals_the_detector(options):
    model = deformed(**options)
    fast = optimize(model, (64, 96), batch_size=2, dtype=torch.float32)
    assert_equal(fast.detect(images(), SIZES), model.detect(images(), SIZES))
    assert_equal(prepare(model, torch.float32, GPU).detect(images(), SIZES), model.detect(images(), SIZES))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_16_bits_are_as_near_as_under_autocast(dtype):
    model, x = deformed(backbone="resnet18"), images()
    with torch.autocast("cpu", dtype):
        cast = model.backbone(x)
    for device in (torch.device("cpu"), GPU):
        made = prepare(model, dtype, device).backbone
        assert not made.autocasts and {one.dtype for one in made.parameters()} == {dtype}
        for found, want, other in zip(made(x), model.backbone(x), cast, strict=True):
            assert found.dtype == dtype
            assert (found.float() - want).norm() <= max(1.3 * (other.float() - want).norm(), 1e-3 * want.norm())
    fast = Optimized(model, (64, 96), 2, dtype)
    assert fast.detect(x, SIZES).count.min() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_on_a_gpu_torchvision_s_kernel_runs(dtype, monkeypatch):
    made = prepare(deformed(backbone="resnet18"), dtype, GPU)
    found = launched(made, monkeypatch)["backbone"]
    # resnet18 has 20 convolutions, 4 of them in stage 5's blocks: those have one for the offsets, and the operator.
    assert found["torchvision.deform_conv2d"] == 4 and found["convolution"] == 20


@torch.no_grad()
def test_exported_it_waits_for_nothing_and_needs_no_torchvision():
    model = deformed()
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
