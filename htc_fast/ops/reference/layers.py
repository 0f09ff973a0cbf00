"""Index maps of masks in plain PyTorch; see csrc/masks.h."""

import torch
from torch import Tensor

TYPES = {1: torch.uint8, 2: torch.int16, 4: torch.int32}


def place_runs(runs: Tensor, offsets: Tensor, sizes: Tensor) -> Tensor:
    """runs [T, 2], offsets [K + 1], sizes [K, 2] -> the layer of each mask, int64 [K]."""
    layers: list[Tensor] = []
    found = []
    for k, (height, width) in enumerate(sizes.tolist()):
        mask = bitmap(runs[offsets[k] : offsets[k + 1]], height * width)
        home = next((i for i, layer in enumerate(layers) if not (layer & mask).any()), len(layers))
        if not mask.any():
            home = 0
        elif home == len(layers):
            layers.append(mask)
        else:
            layers[home] = layers[home] | mask
        found.append(home)
    return torch.tensor(found, dtype=torch.int64)


def bitmap(runs: Tensor, pixels: int) -> Tensor:
    """One mask's runs [T, 2] -> bool [pixels], column by column."""
    mask = torch.zeros(pixels, dtype=torch.bool)
    for begin, end in runs.tolist():
        mask[begin:end] = True
    return mask


def paint_runs(
    runs: Tensor,
    offsets: Tensor,
    sizes: Tensor,
    order: Tensor,
    values: Tensor,
    layers: Tensor,
    maps: int,
    height: int,
    width: int,
    fill: int,
    size: int,
) -> Tensor:
    """-> [maps, height, width] of `size` bytes a pixel: values[i] where mask order[i] is, in map layers[i]."""
    out = torch.full((maps, width * height), fill, dtype=TYPES[size])
    for k, value, layer in zip(order.tolist(), values.tolist(), layers.tolist(), strict=True):
        out[layer][bitmap(runs[offsets[k] : offsets[k + 1]], height * width)] = value
    return out.view(maps, width, height).transpose(1, 2).contiguous()


def measure_layers(layers: Tensor, length: int) -> Tensor:
    """layers [L, H, W] -> [length, 6]: pixels, box and a layer of each number."""
    out = torch.zeros(length, 6, dtype=torch.int64)
    for number in range(1, length):
        layer, rows, columns = (layers == number).nonzero().unbind(1)
        if len(rows):
            low, high = torch.stack([columns, rows]).aminmax(dim=1)
            out[number] = torch.cat([torch.tensor([len(rows)]), low, high + 1, layer[-1:]])
    return out


def take_pixels(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """maps [L, H, W], rows [h], columns [w] -> [L, h, w]."""
    return maps[:, rows][:, :, columns]
