"""Heads of torchvision's one-stage detectors: their last convolutions in one pass, whose results need no turning."""

from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import fcos, retinanet, ssd

from htc_fast.integrations import _layers
from htc_fast.integrations.torchvision.scripting import Exchanged


def _rows(x: Tensor, conv: Any, columns: int, *, relu: bool = False) -> Tensor:
    """[N, A * columns, H, W] of a convolution -> [N, H * W * A, columns]."""
    taken = _layers.takes(x, conv)
    out = _layers.run(x, conv, relu=relu) if taken else conv(x)
    out = out.relu() if relu and not taken else out
    return out.permute(0, 2, 3, 1).reshape(len(out), -1, columns)


class FastRetinaNetClassificationHead(Exchanged, retinanet.RetinaNetClassificationHead):
    """torchvision's."""

    def forward(self, x: list[Tensor]) -> Tensor:
        if _layers.watched(x[0]):
            return super().forward(x)
        return torch.cat([_rows(self.conv(one), self.cls_logits, self.num_classes) for one in x], dim=1)


class FastRetinaNetRegressionHead(Exchanged, retinanet.RetinaNetRegressionHead):
    """torchvision's."""

    def forward(self, x: list[Tensor]) -> Tensor:
        if _layers.watched(x[0]):
            return super().forward(x)
        return torch.cat([_rows(self.conv(one), self.bbox_reg, 4) for one in x], dim=1)


class FastFCOSClassificationHead(Exchanged, fcos.FCOSClassificationHead):
    """torchvision's."""

    def forward(self, x: list[Tensor]) -> Tensor:
        if _layers.watched(x[0]):
            return super().forward(x)
        return torch.cat([_rows(self.conv(one), self.cls_logits, self.num_classes) for one in x], dim=1)


class FastFCOSRegressionHead(Exchanged, fcos.FCOSRegressionHead):
    """torchvision's."""

    def forward(self, x: list[Tensor]) -> tuple[Tensor, Tensor]:
        if _layers.watched(x[0]):
            return super().forward(x)
        found = [self.conv(one) for one in x]
        moves = torch.cat([_rows(one, self.bbox_reg, 4, relu=True) for one in found], dim=1)
        return moves, torch.cat([_rows(one, self.bbox_ctrness, 1) for one in found], dim=1)


class _Scoring(Exchanged):
    """A convolution for each level."""

    def forward(self: Any, x: list[Tensor]) -> Tensor:
        if _layers.watched(x[0]) or len(x) > len(self.module_list):
            return super().forward(x)  # type: ignore[misc]
        return torch.cat([_rows(one, conv, self.num_columns) for one, conv in zip(x, self.module_list)], dim=1)


class FastSSDClassificationHead(_Scoring, ssd.SSDClassificationHead):
    """torchvision's."""


class FastSSDRegressionHead(_Scoring, ssd.SSDRegressionHead):
    """torchvision's."""


OURS: dict[type, type] = {
    retinanet.RetinaNetClassificationHead: FastRetinaNetClassificationHead,
    retinanet.RetinaNetRegressionHead: FastRetinaNetRegressionHead,
    fcos.FCOSClassificationHead: FastFCOSClassificationHead,
    fcos.FCOSRegressionHead: FastFCOSRegressionHead,
    ssd.SSDClassificationHead: FastSSDClassificationHead,
    ssd.SSDRegressionHead: FastSSDRegressionHead,
}
