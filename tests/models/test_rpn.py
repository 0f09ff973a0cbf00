"""The region proposal network's anchors: ours, and whole ones as torchvision has them."""

import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from htc_fast.models import config as configs
from htc_fast.models.rpn import RPN

SIZES = [(25, 34), (13, 17), (7, 9), (4, 5), (2, 3)]


def test_whole_anchors_are_torchvision_s():
    rpn = RPN(8, configs.RPN(whole_anchors=True))
    theirs = AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)
    maps = [torch.zeros(1, 1, *size) for size in SIZES]
    wanted = theirs(ImageList(torch.zeros(1, 3, 100, 136), [(100, 136)]), maps)[0]
    assert torch.equal(torch.cat(rpn.anchors(SIZES, "cpu")), wanted)
    assert rpn.base_anchors() == [one.tolist() for one in theirs.cell_anchors]
    assert rpn.steps(SIZES) == [(4, 4), (7, 8), (14, 15), (25, 27), (50, 45)]


def test_anchors_stand_around_their_pixels_place():
    anchors = RPN(8, configs.RPN(anchor_scale=2.0, anchor_ratios=(1.0, 4.0))).anchors(SIZES, "cpu")
    assert [len(level) for level in anchors] == [2 * height * width for height, width in SIZES]
    assert anchors[0][:2].tolist() == [[-4, -4, 4, 4], [-2, -8, 2, 8]]
    assert anchors[1][2 * (17 * 3 + 5)].tolist() == [40 - 8, 24 - 8, 40 + 8, 24 + 8]
