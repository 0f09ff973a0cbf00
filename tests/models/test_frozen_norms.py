"""Norms that keep their statistics, as part of their convolutions: the same maps and gradients as before."""

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn

from htc_fast.models.backbone import Backbone
from htc_fast.models.frozen_norms import all_own, folded, pairs
from htc_fast.ops import _native


def drawn(net: nn.Module) -> nn.Module:
    """The network in float64, with statistics of its own."""
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low, high in ((module.running_mean, -0.5, 0.5), (module.running_var, 0.5, 2.0)):
                values.uniform_(low, high, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.uniform_(module.bias, -0.5, 0.5, generator=generator)
    return net.double()


def learned(net: nn.Module, images: torch.Tensor) -> tuple[list, dict]:
    """Its maps, and the gradient of each weight that learns."""
    net.zero_grad()
    maps = net(images)
    sum((one * torch.linspace(-1, 1, one.numel(), dtype=one.dtype).view(one.shape)).sum() for one in maps).backward()
    return maps, {name: one.grad for name, one in net.named_parameters() if one.grad is not None}


@pytest.mark.parametrize(("name", "frozen"), [("tf_efficientnet_lite0", 1), ("resnet18", 0), ("resnet50", 1)])
def test_maps_and_gradients_are_those_of_the_norms(name, frozen):
    torch.manual_seed(0)
    backbone, images = drawn(Backbone(name, False, frozen, True).train()), torch.randn(2, 3, 64, 96).double()
    keys = list(backbone.state_dict())
    found, gradients = learned(backbone, images)
    assert len(backbone.pairs) == sum(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    backbone.pairs = []
    wanted, plain = learned(backbone, images)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradients, plain, rtol=1e-9, atol=1e-9)
    assert list(backbone.state_dict()) == keys


def test_autocast_takes_in_depthwise_convolutions_that_are_our_own():
    torch.manual_seed(0)
    backbone, images = Backbone("tf_efficientnet_lite0", False, 1, True).train(), torch.randn(2, 3, 64, 96)
    wanted, plain = learned(backbone, images)
    with torch.autocast("cpu", torch.bfloat16):
        found, gradients = learned(backbone, images)
    assert {one.dtype for one in found} == {torch.bfloat16 if _native.loaded() else torch.float32}
    assert {one.dtype for one in gradients.values()} == {torch.float32}
    assert all((one - other).norm() < 0.05 * other.norm() for one, other in zip(found, wanted))
    # ReLU6 turns gradients on and off by small differences: oneDNN's in bf16 are as far from those in fp32.
    assert all((gradients[name] - other).norm() < 0.4 * other.norm() for name, other in plain.items())


def test_autocast_leaves_other_depthwise_convolutions_alone():
    backbone, images = Backbone("tf_efficientnet_lite0", False, 1, False).train(), torch.randn(2, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        maps = backbone(images)
    assert not all_own(backbone.net, backbone.pairs, images)
    assert {one.dtype for one in maps} == {torch.float32}


def test_norms_of_the_batch_stay_what_they_are():
    backbone = Backbone("resnet18", False, 0, False).train()
    before = backbone.net.bn1.running_mean.clone()
    backbone(torch.randn(2, 3, 64, 64))
    assert not torch.equal(backbone.net.bn1.running_mean, before)


class Shared(nn.Module):
    """A convolution that something else reads too, one that is called twice, and one in front of no norm."""

    def __init__(self):
        super().__init__()
        self.read, self.twice, self.own, self.bare = (Conv2dSame(3, 3, 3, bias=True) for _ in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(4))

    def forward(self, x):
        read = self.read(x)
        x = self.norms[0](read) + read
        x = self.norms[1](self.twice(x)) + self.norms[2](self.twice(x))
        return [self.bare(self.norms[3](self.own(x)))]


def test_only_what_a_norm_alone_reads_takes_it_in():
    net = drawn(Shared().eval())
    images = torch.randn(2, 3, 9, 11).double()
    assert pairs(net) == [(net.own, net.norms[3])]
    plain, gradients = learned(net, images)
    with folded(pairs(net)):
        found, own = learned(net, images)
    torch.testing.assert_close(found, plain, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(own, gradients, rtol=1e-9, atol=1e-9)
    assert "forward" not in net.own.__dict__


def test_who_looks_at_what_a_convolution_gives_sees_that():
    net, images, seen = drawn(Shared().eval()), torch.randn(2, 3, 9, 11).double(), []
    net.own.register_forward_hook(lambda _, inputs, result: seen.append(result))
    plain = net(images)
    with folded(pairs(net)):
        found = net(images)
    torch.testing.assert_close(seen[1], seen[0], rtol=0, atol=0)
    torch.testing.assert_close(found, plain, rtol=0, atol=0)


def test_a_forward_of_somebody_elses_is_called_and_stays():
    net, calls = drawn(Shared().eval()), []
    net.own.forward = lambda x: calls.append(1) or Conv2dSame.forward(net.own, x)
    with folded([(net.own, net.norms[3])]):
        net(torch.randn(2, 3, 9, 11).double())
    assert calls == [1] and "forward" in net.own.__dict__


def test_a_network_that_cannot_be_traced_stays_as_it_is():
    class Looking(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.norm(self.conv(x)) if x.sum() > 0 else x

    assert pairs(Looking()) == []
