"""Gradient checkpointing of backbones: the same gradients and statistics from fewer tensors that are kept."""

import copy

import pytest
import torch
from torch import nn

from htc_fast import UserError
from htc_fast.inference.export import export_detect
from htc_fast.models.backbone import Backbone
from htc_fast.models.norm import join_norms
from htc_fast.models.recompute import recompute_blocks
from tests.criterion.test_family_losses import targets
from tests.inference.test_fuse import settled
from tests.models.test_family import SIZES
from tests.models.test_zoo import tiny

# By backbone, how many blocks it has, and how much smaller the bytes kept for going backwards are at least.
BACKBONES = {
    "swin_tiny_patch4_window7_224": (16, 15),  # of which four merge patches
    "resnet18": (8, 1.5),
    "test_convnext": (9, 3),
    "regnety_002": (14, 4),
    "dpn68": (23, 4),
    "densenet121": (58, 3),  # its layers read lists of maps
    "hrnet_w18_small": (8, 3),  # its modules write into theirs
}
QUICK = ("swin_tiny_patch4_window7_224", "resnet18", "test_convnext")
NAMES = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in BACKBONES]


def step(backbone, images, enabled):
    """Maps, gradients, buffers and the bytes kept, of a copy's step of training."""
    made, kept = copy.deepcopy(backbone).train(), {}
    made.checkpoint(enabled)

    def keep(value):
        kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    torch.manual_seed(5)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        maps = made(images)
    weights = {one.untyped_storage().data_ptr() for one in made.parameters()}
    count = sum(size for place, size in kept.items() if place not in weights)
    sum((one * one).mean() for one in maps).backward()
    return maps, {key: one.grad for key, one in made.named_parameters()}, dict(made.named_buffers()), count


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_the_same_and_less_is_kept(name):
    blocks, factor = BACKBONES[name]
    torch.manual_seed(0)
    rate = 0.3 if name not in ("dpn68", "densenet121", "hrnet_w18_small") else 0.0
    backbone = Backbone(name, False, frozen_stages=-1, norm_eval=False, drop_path=rate)
    settled(backbone)  # residual blocks start as the identity
    assert recompute_blocks(copy.deepcopy(backbone.net), True) == blocks
    images = torch.randn(2, 3, 64, 96)
    (maps, grads, buffers, count), (again, others, statistics, less) = (step(backbone, images, on) for on in (0, 1))
    assert all(torch.equal(one, other) for one, other in zip(maps, again, strict=True))
    assert less * factor < count
    for key, grad in grads.items():
        assert (grad is None) == (others[key] is None)
        if grad is not None:
            torch.testing.assert_close(others[key], grad, rtol=1e-4, atol=1e-5 * float(grad.abs().max()))
    assert any(grad is not None and grad.any() for grad in grads.values())
    # The second time is no other batch.
    assert all(torch.equal(one, statistics[key]) for key, one in buffers.items())


def test_joint_norms_see_a_batch_once():
    backbone = Backbone("test_resnet", False, frozen_stages=-1, norm_eval=False)
    join_norms(settled(backbone))
    # A single pixel, which torch's own norm does not take.
    images = torch.randn(1, 3, 32, 32)
    _, grads, buffers, _ = step(backbone, images, False)
    _, others, statistics, _ = step(backbone, images, True)
    assert all(torch.equal(one, statistics[key]) for key, one in buffers.items())
    moved = [key for key, one in backbone.named_buffers() if not torch.equal(one, buffers[key])]
    assert any(key.endswith("running_mean") for key in moved)
    for key, grad in grads.items():
        torch.testing.assert_close(others[key], grad, rtol=1e-4, atol=1e-6)


def test_it_is_for_training_alone_and_goes_again():
    model = tiny("htc_r50", frozen_stages=0)
    names = list(model.state_dict())
    images, sizes = torch.randn(1, 3, 64, 96), torch.tensor([[64, 96]])
    want = model.eval().detect(images, sizes)
    model.backbone.checkpoint(True)
    assert list(model.state_dict()) == names
    found = export_detect(model, (64, 96)).module()(images, sizes)
    torch.testing.assert_close(found["scores"], want.scores, rtol=1e-4, atol=1e-4)
    assert torch.equal(model.detect(images, sizes).scores, want.scores)
    changed = [one for one in model.modules() if "forward" in vars(one)]
    model.backbone.checkpoint(False)
    assert changed and not any("forward" in vars(one) for one in model.modules())
    model.backbone.checkpoint(False)


def test_a_copy_computes_with_its_own_weights():
    backbone = Backbone("test_resnet", False, frozen_stages=-1, norm_eval=True)
    backbone.checkpoint(True)
    made = copy.deepcopy(backbone).train()
    with torch.no_grad():
        for one in made.net.layer4.parameters():
            one.zero_()
    images = torch.randn(1, 3, 64, 64)
    assert not made(images)[-1].any() and backbone.train()(images)[-1].any()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled():
    """The compiler recomputes in its own way: the same gradients, and statistics that see the batch once."""
    backbone = settled(Backbone("test_resnet", False, frozen_stages=-1, norm_eval=False)).train()
    backbone.checkpoint(True)
    made, images = copy.deepcopy(backbone), torch.randn(2, 3, 64, 64)
    made.compile(backend="aot_eager")
    for one in (backbone, made):
        sum((one * one).mean() for one in one(images)).backward()
    for one, other in zip(backbone.parameters(), made.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-6)
    for one, other in zip(backbone.buffers(), made.buffers(), strict=True):
        torch.testing.assert_close(other, one)


def test_a_detector_learns_the_same():
    grads = []
    for enabled in (False, True):
        model = tiny("htcpp_swin_t", rpn_train_proposals=30, samples=16, drop_path=0.0).train()
        model.backbone.checkpoint(enabled)
        torch.manual_seed(2)
        sum(model.losses(torch.randn(3, 3, 64, 96), SIZES, targets()).values()).backward()
        grads.append({key: one.grad for key, one in model.named_parameters()})
    for key, grad in grads[0].items():
        torch.testing.assert_close(grads[1][key], grad, rtol=1e-3, atol=1e-5)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.second(self.first(x).relu())


def test_what_is_overwritten_is_noticed():
    """Computed again from other numbers, gradients would be wrong without a word."""
    net = nn.Sequential(Block(), Block())
    assert recompute_blocks(net, True) == 2
    x = net[0](torch.randn(3, 4))
    y = net[1](x)
    with torch.no_grad():
        x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_a_backbone_without_blocks():
    backbone = Backbone("test_resnet", False, frozen_stages=-1, norm_eval=True)
    backbone.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    with pytest.raises(UserError, match=r"^gradient checkpointing computes a backbone's blocks again, and this one"):
        backbone.checkpoint(True)
    backbone.checkpoint(False)
