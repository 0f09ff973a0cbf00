"""Switchable atrous convolution (Qiao et al., CVPR 2021, section 4): every pixel chooses between two dilations.

The same weight, standardised, is applied with the layer's dilation and, plus a trained difference, with three times
that; both read between pixels, where offsets say. A layer that starts is the convolution that it replaces.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from htc_fast.models.deformable import deformable_convolution
from htc_fast.models.standardised import StandardisedConv2d

FAR = 3  # times the layer's own dilation
REACH = 2  # pixels to either side whose mean decides


class SwitchableConv2d(StandardisedConv2d):
    """x [N, C, H, W] -> [N, O, h, w]: the geometry, groups and weight of `conv`.

    pre_context        adds what a 1x1 makes of the mean of the whole input, post_context of the output
    switch             share of the near dilation at every output pixel, from the means of 5 x 5 pixels; any number
    weight_difference  of the far dilation's weight
    near_offset, far_offset  as a deformable convolution's, from the same means
    source             mmcv's SAConv2d with use_deform. Maps are mirrored at their borders for the means, again and
                       again where they are smaller than that, which mmcv refuses. Sampling and products are in float32
                       at least; the result has the type that a plain convolution's would have
    """

    def __init__(self, conv: nn.Conv2d):
        super().__init__(conv)
        inputs, outputs = conv.in_channels, conv.out_channels
        self.weight_difference = nn.Parameter(torch.zeros_like(conv.weight))
        self.switch = _zeros(conv, inputs, 1, 1, conv.stride)
        nn.init.ones_(self.switch.bias)
        self.pre_context = _zeros(conv, inputs, inputs, 1)
        self.post_context = _zeros(conv, outputs, outputs, 1)
        taps = 2 * conv.kernel_size[0] * conv.kernel_size[1]
        self.near_offset = _zeros(conv, inputs, taps, 3, conv.stride)
        self.far_offset = _zeros(conv, inputs, taps, 3, conv.stride)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pre_context(mean(x))
        around = means(x)
        switch, weight = self.switch(around), self.standardised()
        y = self.switched(
            x, switch, (self.near_offset(around), self.far_offset(around)), (weight, weight + self.weight_difference)
        )
        return y + self.post_context(mean(y))

    def switched(
        self, x: Tensor, switch: Tensor, offsets: tuple[Tensor, Tensor], weights: tuple[Tensor, Tensor]
    ) -> Tensor:
        """x [N, C, H, W], switch [N, 1, h, w], near and far offsets, weights -> [N, O, h, w] in the switch's type."""
        near, far = (
            deformable_convolution(x, offset, weight, self.bias, self.stride, *wider)
            for offset, weight, wider in zip(offsets, weights, self._dilated())
        )
        y = far.lerp(near, switch.to(far.dtype))
        return y.to(switch.dtype, memory_format=torch.channels_last)

    def _dilated(self) -> list[Any]:
        """Padding and dilation of both."""
        sides: Any = self.padding, self.dilation
        return [[tuple(factor * one for one in pair) for pair in sides] for factor in (1, FAR)]


def _zeros(conv: nn.Conv2d, inputs: int, outputs: int, kernel: int, stride: Any = 1) -> nn.Conv2d:
    """A convolution of zeros where `conv` is."""
    made = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, device="meta")
    for name, one in list(made.named_parameters()):
        setattr(made, name, nn.Parameter(conv.weight.new_zeros(one.shape)))
    return made


def mean(x: Tensor) -> Tensor:
    """x [N, C, H, W] -> [N, C, 1, 1]."""
    return x.mean(dim=(2, 3), keepdim=True)


def means(x: Tensor) -> Tensor:
    """x [N, C, H, W] -> the mean of 5 x 5 pixels around each, the map mirrored at its borders."""
    if min(x.shape[2:]) > REACH:
        x = F.pad(x, (REACH, REACH, REACH, REACH), mode="reflect")
    else:
        for axis in (2, 3):
            x = x.index_select(axis, _mirrored(x.shape[axis], x.device))
    return F.avg_pool2d(x, 2 * REACH + 1, stride=1)


def _mirrored(size: int, device: torch.device) -> Tensor:
    """Pixels -2 to size + 1 of a row that is mirrored at its first and last pixel for ever, as pixels of the row."""
    place = torch.arange(-REACH, size + REACH, device=device)
    if size == 1:
        return place * 0
    place = place % (2 * (size - 1))
    return size - 1 - (size - 1 - place).abs()
