"""Atrous spatial pyramid pooling against its definition."""

import torch
import torch.nn.functional as F

from htc_fast.models import zoo
from htc_fast.models.aspp import ASPP
from htc_fast.models.htc import HTC
from tests.models.test_pafpn import maps, shaken
from tests.models.test_zoo import tiny


def defined(aspp, x):
    """Five scales, concatenated, and a 1x1; dilated kernels as sums over their nine shifted pixels."""

    def dilated(weight, bias, rate):
        height, width = x.shape[2:]
        padded = F.pad(x, (rate,) * 4)
        total = 0
        for row in range(3):
            for column in range(3):
                seen = padded[:, :, row * rate : row * rate + height, column * rate : column * rate + width]
                total = total + torch.einsum("oc,nchw->nohw", weight[:, :, row, column], seen)
        return (total + bias[:, None, None]).clamp(min=0)

    near, *wide = aspp.branches
    scales = [(torch.einsum("oc,nchw->nohw", near.weight[..., 0, 0], x) + near.bias[:, None, None]).clamp(min=0)]
    scales += [dilated(one.weight, one.bias, rate) for one, rate in zip(wide, (6, 12, 18), strict=True)]
    mean = x.flatten(2).mean(2) @ aspp.pooled.weight[..., 0, 0].T + aspp.pooled.bias
    scales.append(mean.clamp(min=0)[..., None, None].expand_as(x))
    return (
        torch.einsum("oc,nchw->nohw", aspp.project.weight[..., 0, 0], torch.cat(scales, 1))
        + aspp.project.bias[:, None, None]
    )


@torch.no_grad()
def test_the_definition():
    aspp, features = shaken(ASPP(8)), maps()
    found = aspp(features)
    for one, p in zip(found[:4], features):
        assert one.shape == p.shape
        torch.testing.assert_close(one, defined(aspp, p), rtol=1e-4, atol=1e-4)
    assert torch.equal(found[4], found[3][:, :, ::2, ::2]) and found[4].shape == features[4].shape


def test_its_parameters():
    """1x1: 65,792; three 3x3: 3 * 590,080; the mean's 1x1: 65,792; the last 1x1: 5 * 256 * 256 + 256 = 327,936."""
    with torch.device("meta"):
        plain, model = HTC(zoo.config("htc_r50")), HTC(zoo.config("htc_r50_aspp"))
    assert sum(one.numel() for one in model.aspp.parameters()) == 2_229_760
    assert sum(one.numel() for one in model.parameters()) == 80_258_293 + 2_229_760
    names = {f"aspp.branches.{number}" for number in range(4)} | {"aspp.pooled", "aspp.project"}
    assert {name.rsplit(".", 1)[0] for name in model.state_dict().keys() - plain.state_dict().keys()} == names


@torch.no_grad()
def test_it_comes_behind_the_path_aggregation():
    model = tiny("htc_r50_pafpn", aspp=True).eval()
    shaken(model.pafpn), shaken(model.aspp)
    images = torch.randn(1, 3, 64, 96)
    base = model.fpn(model.backbone(images))
    for one, other in zip(model.extract(images), model.aspp(model.pafpn(base)), strict=True):
        assert torch.equal(one, other)


@torch.no_grad()
def test_padding_counts_in_the_mean():
    """As the docstring says: a picture's features depend on how much black is around it."""
    aspp = shaken(ASPP(8))
    x = torch.randn(1, 8, 20, 20)
    padded = F.pad(x, (0, 60))
    near = [branch(padded)[..., :2] - branch(F.pad(x, (0, 20)))[..., :2] for branch in aspp.branches]
    assert all(one.abs().max() < 1e-5 for one in near)
    assert (aspp.level(padded)[..., :2] - aspp.level(F.pad(x, (0, 20)))[..., :2]).abs().max() > 1e-4
