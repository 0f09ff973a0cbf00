"""Long kernels in the semantic branch against their definition."""

import pytest
import torch
import torch.nn.functional as F

from htc_fast.errors import UserError
from htc_fast.models import zoo
from htc_fast.models.gcn import GCN
from htc_fast.models.htc import HTC
from htc_fast.models.semantic_head import SemanticHead
from tests.models.test_pafpn import maps, shaken
from tests.models.test_zoo import tiny


def line(x, conv, axis):
    """A kernel along one axis, 2 down or 3 across, as a sum over seven shifted maps."""
    weight = conv.weight.squeeze(5 - axis)
    padded = F.pad(x, (3, 3) if axis == 3 else (0, 0, 3, 3))
    taps = (weight[:, :, k] @ padded.narrow(axis, k, x.shape[axis]).flatten(2) for k in range(7))
    return (sum(taps) + conv.bias[:, None]).unflatten(2, x.shape[2:])


def defined(block, x):
    first, second = (list(pair) for pair in (block.row_column, block.column_row))
    both = line(line(x, first[0], 3), first[1], 2) + line(line(x, second[0], 2), second[1], 3)
    return both.clamp(min=0)


@torch.no_grad()
def test_a_block():
    block, x = shaken(GCN(6)), torch.randn(2, 6, 9, 14)
    shapes = [tuple(conv.weight.shape[2:]) for conv in (*block.row_column, *block.column_row)]
    assert shapes == [(1, 7), (7, 1), (7, 1), (1, 7)]
    torch.testing.assert_close(block(x), defined(block, x), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_levels_are_resampled_first_and_summed_behind_the_relu():
    head, features = shaken(SemanticHead(8, 5, gcn=True)), maps()
    size = features[1].shape[2:]
    resampled = [F.interpolate(one, size=size, mode="bilinear", align_corners=True) for one in features]
    want = sum(defined(block, one) for block, one in zip(head.lateral, resampled, strict=True))
    torch.testing.assert_close(head.merge(features), want, rtol=1e-4, atol=1e-4)


def test_its_parameters():
    """Four 1x7 per level, 7 * 256 * 256 + 256 = 459,008, for five levels; a 1x1 has 65,792."""
    with torch.device("meta"):
        model = HTC(zoo.config("htc_r50_gcn"))
    assert sum(one.numel() for one in model.semantic_head.lateral.parameters()) == 9_180_160
    assert sum(one.numel() for one in model.parameters()) == 80_258_293 + 9_180_160 - 5 * 65_792


def test_without_a_semantic_branch_it_has_no_place():
    with pytest.raises(UserError, match="gcn is a part of the semantic branch, got semantic='none': choose another"):
        tiny("htc_r50_nosem", gcn=True)
