"""The mask heads of a cascade in plain PyTorch."""

import torch
from torch import Tensor

from htc_fast.ops.reference.conv3x3_relu import conv3x3_relu
from htc_fast.ops.reference.mask_flow import mask_flow
from htc_fast.ops.reference.mask_predict import mask_predict
from htc_fast.ranges import part

STEPS = conv3x3_relu, mask_flow, mask_predict


def mask_branch(x: Tensor, labels: Tensor, heads: list, averaged: list[int], steps: tuple = STEPS) -> Tensor:
    """steps: the three operators that it is made of."""
    convolution, flow, predict = steps
    previous, found = None, []
    for number, head in enumerate(heads):
        with part(f"mask stage {number + 1}"):
            here = x if head.flow is None else flow(x, previous, *head.flow)
            for weight, bias in head.convolutions:
                here = convolution(here, weight, bias, None)
            previous = here
            if number in averaged:
                found.append(predict(here, *head.upsample, *head.logits, labels).float().sigmoid())
    known = (labels >= 0) & (labels < len(heads[-1].logits[0]))
    return torch.where(known[:, None, None], torch.stack(found).mean(dim=0), 0)
