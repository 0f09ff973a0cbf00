"""Swin transformers (Liu et al., ICCV 2021) of timm as detectors have them: maps padded before their shift, and norms.

A classifier sees one size, at which timm's last stage is a single window and nothing has to be padded. Of other sizes
the published detectors pad the map to whole windows first, shift the padded map, and shift in every stage.
"""

import timm
import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformerBlock, window_partition, window_reverse
from torch import Tensor, fx, nn


class WindowBlock(SwinTransformerBlock):
    """timm's block on maps [N, H, W, C] of any size.

    source  Swin Transformer, section 3.2; the order of padding and shift as in its authors' detectors and mmdetection
    """

    def _attn(self, x: Tensor) -> Tensor:
        rows, columns = x.shape[1], x.shape[2]
        height, width = self.window_size
        down, right = self.shift_size
        x = F.pad(x, (0, 0, 0, -columns % width, 0, -rows % height))
        padded_rows, padded_columns = x.shape[1], x.shape[2]
        mask = None
        if down or right:
            x = x.roll((-down, -right), (1, 2))
            mask = shift_mask(x, self.window_size, self.shift_size)
        windows = window_partition(x, self.window_size).flatten(1, 2)
        windows = self.attn(windows, mask=mask).unflatten(1, self.window_size)
        x = window_reverse(windows, self.window_size, padded_rows, padded_columns)
        if down or right:
            x = x.roll((down, right), (1, 2))
        return x[:, :rows, :columns]


@fx.wrap
def shift_mask(x: Tensor, window: tuple[int, int], shift: tuple[int, int]) -> Tensor:
    """What keeps places apart that only the shift has brought into one window.

    x        [N, H, W, C]  shifted, of whole windows
    returns  [windows, places, places] in x's type, -100 between places that were no neighbours, else 0
    """
    rows, columns = (
        _regions(torch.arange(side, device=x.device), side, long, moved)
        for side, long, moved in zip(x.shape[1:3], window, shift)
    )
    regions = window_partition((3 * rows[:, None] + columns)[None, :, :, None], window).flatten(1)
    return (regions[:, None, :] != regions[:, :, None]).to(x.dtype) * -100.0


def _regions(place: Tensor, side: int, window: int, shift: int) -> Tensor:
    """0 in all windows but the last, in which those that stayed (1) and those that came from the other end (2) meet."""
    return (place >= side - window).to(torch.int64) + (place >= side - shift).to(torch.int64)


def is_swin(net: nn.Module) -> bool:
    """Whether it is one of timm's (of the first version)."""
    return any(isinstance(module, SwinTransformerBlock) for module in net.modules())


def take_any_size(net: nn.Module) -> None:
    """Let the blocks of a Swin transformer, if it is one, compute what the published detectors' do; weights stay."""
    for module in net.modules():
        # They hold nothing more: the same object, wherever it is referred to, only computes in another way.
        if type(module) is SwinTransformerBlock:
            module.__class__ = WindowBlock
            module.shift_size = module.target_shift_size


def output_norms(name: str, channels: list[int], pretrained: bool) -> list[nn.LayerNorm]:
    """A layer norm for each map; ImageNet weights bring the last one, which the classifier has too."""
    made = [nn.LayerNorm(count) for count in channels]
    if pretrained:
        made[-1].load_state_dict(timm.create_model(name, pretrained=True).norm.state_dict())
    return made
