"""Where each heat map is largest once it is as large as its box: bicubic resizing as two products of matrices."""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor


def largest(maps: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """The pixel of every keypoint.

    maps     [K, J, H, W] logits;  boxes [K, 4] x1, y1, x2, y2 in pixels
    returns  [K, J, 3] float32: x, y, 1; and [K, J] float32, the logits there
    source   torchvision's heatmaps_to_keypoints, whose bicubic interpolation is linear in each axis
    """
    if not len(boxes):
        return maps.new_zeros(0, maps.shape[1], 3).float(), maps.new_zeros(0, maps.shape[1]).float()
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    sizes = sides.ceil()
    places, scores = [], []
    for one, (width, height) in zip(maps.float(), sizes.long().tolist()):
        down, across = _weights(one.shape[1], height, one), _weights(one.shape[2], width, one)
        score, place = (down @ one @ across.t()).flatten(1).max(dim=1)
        places.append(torch.stack([place % width, torch.div(place, width, rounding_mode="floor")], dim=1))
        scores.append(score)
    found = (torch.stack(places) + 0.5) * (sides / sizes)[:, None] + boxes[:, None, :2]
    return torch.cat([found, torch.ones_like(found[..., :1])], dim=2).float(), torch.stack(scores)


def _weights(size: int, wanted: int, like: Tensor) -> Tensor:
    """[wanted, size]: what every old pixel of an axis gives to every new one."""
    return _of_cpu(size, wanted).to(like.device)


@functools.lru_cache(maxsize=64)
def _of_cpu(size: int, wanted: int) -> Tensor:
    with torch.inference_mode(False):
        eye = torch.eye(size)[None, None]
        return F.interpolate(eye, size=(wanted, size), mode="bicubic", align_corners=False)[0, 0]
