"""Norms behind the convolutions of the box heads alone (`box_norm`)."""

import torch.nn.functional as F
from torch import Tensor, nn

from htc_fast.errors import UserError
from htc_fast.models.config import Model


class Conv3x3LayerNormReLU(nn.Conv2d):
    """Maps [K, C, H, W] -> relu(layer norm(3x3 convolution without a bias)) of the same shape.

    Every place of every RoI is normalised over its channels: no place, RoI or process depends on another, so that
    neither padded rows nor small batches matter, in training as in evaluation.

    source  ViTDet (Li et al., ECCV 2022), whose box heads have this norm of ConvNeXt's
    """

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """rows: which of the K are real; no matter here."""
        x = super().forward(x).permute(0, 2, 3, 1)
        weight, bias = self.norm.weight.to(x.dtype), self.norm.bias.to(x.dtype)
        return F.layer_norm(x, self.norm.normalized_shape, weight, bias, self.norm.eps).permute(0, 3, 1, 2).relu_()


def box_norms(config: Model) -> dict[str, bool]:
    """What `BoxHead` is told of norms: those that `box_norm` asks for, or those that `norm` puts everywhere.

    raises  UserError for box_norm without convolutions, or where norm puts some there already
    """
    everywhere, own = config.norm == "syncbn", config.box_norm
    if own != "none" and config.box_head != "4conv1fc":
        raise UserError(
            f"box_norm stands behind the box heads' convolutions, got box_norm={own!r} with box_head="
            f"{config.box_head!r}, which has none: set box_head='4conv1fc', or box_norm='none'."
        )
    if own != "none" and everywhere:
        raise UserError(
            f"norm='syncbn' puts a batch norm behind the box heads' convolutions already, got box_norm={own!r} as "
            "well: set one of the two to 'none'."
        )
    return {"norm": everywhere or own == "syncbn", "layer_norm": own == "layernorm"}
