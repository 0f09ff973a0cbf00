"""A detector laid out for a device: the same results, and on a GPU, as far as a trace shows, one launch per layer."""

import contextlib
from collections import Counter

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from htc_fast.inference import layout, merged
from htc_fast.inference.fuse import fuse_convolutions
from htc_fast.inference.layout import ReadyBackbone, prepare
from htc_fast.inference.merged import MergedRPN
from htc_fast.models import htc, rfp
from htc_fast.models.backbone import Backbone
from htc_fast.models.rpn import RPN
from htc_fast.ops import _fastest, _onednn
from tests.inference.test_fuse import settled
from tests.inference.test_optimize import CASES, assert_equal, detector, images
from tests.models.test_zoo import SIZES

CPU, GPU = torch.device("cpu"), torch.device("cuda")
LOW = torch.bfloat16, torch.float16


@pytest.mark.parametrize("case", CASES)
def test_what_is_laid_out_for_a_gpu_detects_the_same_on_a_cpu(case):
    """There its operators are their definitions."""
    name, overrides = CASES[case]
    model = detector(name, **overrides)
    made = prepare(model, torch.float32, GPU)
    assert next(made.parameters()).device == CPU and not made.training
    assert_equal(made.detect(images(), SIZES), model.detect(images(), SIZES))


@pytest.mark.parametrize("name, overrides", [("htc_r50", {}), ("cascade_mask_r50", {"box_head": "4conv1fc"})])
@pytest.mark.parametrize("onednn", [False, True])
def test_whichever_product_is_faster_is_used_and_the_results_are_the_same(monkeypatch, name, overrides, onednn):
    if onednn and not _onednn.has_linear():
        pytest.skip("torch has no oneDNN")
    calls, run = [], _onednn.linear
    monkeypatch.setattr(_onednn, "linear", lambda *of: calls.append(of) or run(*of))
    monkeypatch.setattr(_fastest, "_found", [_fastest.Fastest(onednn, torch.float32)])
    model = detector(name, **overrides)
    made = prepare(model, torch.float32)
    with torch.no_grad():
        assert_equal(made.detect(images(), SIZES), model.detect(images(), SIZES))
    layers = 3 if made.box_heads[0].fc2 is not None else 2
    assert len(calls) == (layers * len(made.box_heads) if onednn else 0)
    calls.clear()
    rows = torch.randn(5, model.config.channels, 7, 7)
    with torch.no_grad():
        traced = torch.export.export(made.box_heads[0], (rows,), strict=False)
    assert not calls and "mkldnn" not in str(traced.graph)
    rows.requires_grad_()
    made.box_heads[0](rows)[0].sum().backward()
    assert not calls and rows.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_types_have_torch_s_products(monkeypatch, dtype):
    monkeypatch.setattr(_fastest, "_found", [_fastest.Fastest(True, torch.float32)])
    assert not any(head.onednn for head in prepare(detector(), dtype).box_heads)


# Those with norms of layers, or with parameters of their own, keep autocast. Stems of a plain convolution are padded,
# those of ResNets (16) folded.
BACKBONES = {
    "resnet18": (False, 16),
    "test_resnet": (False, 8),
    "tf_efficientnet_lite0": (False, 3),
    "mobilenetv3_small_050": (False, 8),
    "regnety_002": (False, 8),
    "resnext50_32x4d": (False, 16),
    "test_convnext": (True, 3),
    "swin_tiny_patch4_window7_224": (True, 3),
}


SLOW = {"resnext50_32x4d", "swin_tiny_patch4_window7_224"}
ONE_EACH = [pytest.param(one, torch.bfloat16, marks=[pytest.mark.slow] if one in SLOW else []) for one in BACKBONES]


@pytest.mark.parametrize("name, dtype", [*ONE_EACH, ("test_resnet", torch.float16), ("test_convnext", torch.float16)])
@torch.no_grad()
@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_backbones_in_16_bits(name, dtype):
    """As near to float32 as under autocast, laid out for a CPU and for a GPU."""
    model, x = detector("cascade_mask_r50", backbone=name), images()
    autocasts, channels = BACKBONES[name]
    with torch.autocast("cpu", dtype):
        cast = model.backbone(x)
    for device in (CPU, GPU):
        made = prepare(model, dtype, device).backbone
        found = 16 if made.folded else made.channels
        assert (made.autocasts, found) == (autocasts, channels if device == GPU else 3)
        for found, want, other in zip(made(x), model.backbone(x), cast, strict=True):
            assert found.dtype == dtype
            assert (found.float() - want).norm() <= max(1.3 * (other.float() - want).norm(), 1e-3 * want.norm())


class Own(nn.Module):
    """A network that adds numbers of its own type."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return [self.second(self.first(x) + torch.ones(1, 4, 1, 1))] * 8


@torch.no_grad()
def test_a_backbone_that_cannot_do_without_autocast_keeps_it():
    backbone = Backbone("test_resnet", pretrained=False, frozen_stages=0, norm_eval=True).eval()
    backbone.net = Own()
    want, low = backbone(images()), backbone.bfloat16()
    made = ReadyBackbone(low, torch.bfloat16, 3)
    assert made.autocasts
    for found, other in zip(made(images()), want):
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), other, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("ratios", [(0.5, 1.0, 2.0), (1.0,), (0.3, 0.5, 1.0, 2.0, 3.0)])
@torch.no_grad()
def test_both_layers_of_the_rpn_are_one(ratios):
    rpn = detector(rpn_anchor_ratios=ratios).rpn
    torch.manual_seed(0)
    for one in (rpn.objectness, rpn.deltas):
        one.weight.normal_()
        one.bias.normal_()
    made, maps = MergedRPN(rpn), [torch.randn(2, rpn.conv.in_channels, side, side + 3) for side in (9, 4, 1)]
    assert isinstance(made, RPN) and made.merged.conv.out_channels == -(-5 * len(ratios) // 8) * 8
    for found, want in zip(made(maps), rpn(maps), strict=True):
        for one, other in zip(found, want, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    objects, deltas = (some[0] for some in made(maps))
    assert objects.untyped_storage().data_ptr() == deltas.untyped_storage().data_ptr()


def test_a_stem_is_padded_only_where_nothing_else_reads_the_images():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

        def forward(self, x):
            return [self.norm(self.conv(x)) + x]

    net, _ = fuse_convolutions(settled(Twice()))
    assert layout._widen_stem(net, 8) == 3
    net, _ = fuse_convolutions(settled(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU())))
    before = net(images())
    assert layout._widen_stem(net, 8) == 8
    torch.testing.assert_close(net(nn.functional.pad(images(), (0, 0, 0, 0, 0, 5))), before)


class Launches(TorchDispatchMode):
    """Calls of operators that are no views, by part of the detector."""

    def __init__(self):
        super().__init__()
        self.found, self.part = Counter(), "elsewhere"

    def __torch_dispatch__(self, operator, types, arguments=(), options=None):
        returned = operator._schema.returns
        looks = operator.namespace == "prim" or (returned and all(one.alias_info is not None for one in returned))
        if (not looks or operator._schema.is_mutable) and "empty" not in str(operator):
            self.found[self.part, str(operator._overloadpacket)] += 1
        return operator(*arguments, **(options or {}))

    @contextlib.contextmanager
    def watched(self, name):
        before, self.part = self.part, name
        yield
        self.part = before


def on_fake_gpu(network):
    """Weights as tensors of a GPU that is not there."""
    for module in network.modules():
        for name, one in module._parameters.items():
            if one is not None:
                like = torch.empty_strided(one.shape, one.stride(), dtype=one.dtype, device="cuda")
                module._parameters[name] = nn.Parameter(like, requires_grad=False)


def launched(made, monkeypatch):
    """part -> operator -> how often a GPU would run it for one picture."""
    launches = Launches()
    for module in (htc, merged, rfp):
        monkeypatch.setattr(module, "part", launches.watched)
    with FakeTensorMode():
        on_fake_gpu(made)
        pictures = torch.empty(1, 64, 96, 3, device="cuda").permute(0, 3, 1, 2)
        with launches:
            made.detect(pictures, torch.empty(1, 2, dtype=torch.int64, device="cuda"))
    parts = {name: {} for name, _ in launches.found}
    for (name, operator), count in launches.found.items():
        parts[name][operator.removeprefix("htc_fast.")] = count
    return parts


@pytest.mark.parametrize("dtype", [torch.float32, *LOW])
@torch.no_grad()
def test_one_launch_per_layer(dtype, monkeypatch):
    made = prepare(detector(backbone="resnet18"), dtype, GPU)
    parts = launched(made, monkeypatch)
    images = "pad_images" if dtype == torch.float32 else "fold_images"
    assert parts["backbone"] == {images: 1, "convolution": 20, "max_pool": 1}
    assert parts["FPN"] == {"convolution": 5, "lateral": 3, "aten.clone": 1}
    assert parts["RPN head"] == {"htc_fast_triton.conv3x3_relu": 5, "convolution": 5}
    assert parts["semantic"]["convolution"] == 1 and "aten.relu_" not in parts["semantic"]
    for stage in (1, 2, 3):
        assert (
            parts[f"box stage {stage}"]["aten._addmm_activation"] == 2
            and parts[f"box stage {stage}"]["aten.addmm"] == 1
        )
