"""COCO run lengths to whole masks."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from htc_fast.errors import short
from htc_fast.ops import _backend, _native, _rle
from htc_fast.ops._declare import declare
from htc_fast.ops.reference import decode as reference

_backend.register("decode", "cpp", "cuda")


def decode(rles: Any, device: torch.device | str | None = None) -> Tensor:
    """Whole masks of COCO RLE dicts.

    rles     K dicts {"size": [H, W], "counts": bytes, str or a list}, all of one size, or one dict
    device   where the masks shall be; None: on the CPU
    returns  [K, H, W]  bool; [H, W] for one dict, [0, 0, 0] for an empty list
    raises   ValueError where sizes differ or an RLE does not fill its image, TypeError for what is no RLE
    source   COCO API's compressed run lengths
    """
    masks = _rle.read("rles", rles)
    height, width = one_size(masks)
    like = torch.empty(0, dtype=torch.bool, device=device)
    target = like.device
    if target.type not in ("cpu", "cuda") or (
        target.type == "cuda" and _backend.forced_backend() is None and not _native.has("decode", "CUDA")
    ):
        like = like.cpu()  # no kernel there: the masks travel
    if _backend.backend_for("decode", like) == "reference":
        out = reference.decode(masks.runs, masks.offsets, height, width).to(like.device)
    else:
        out = torch.ops.htc_fast.decode(masks.runs, masks.offsets, like, height, width)
    out = out.to(target)
    return out[0] if isinstance(rles, Mapping) else out


def one_size(masks: _rle.Runs) -> tuple[int, int]:
    """The size of all masks; 0, 0 where there are none.

    raises  ValueError where they differ
    """
    if not len(masks.sizes):
        return 0, 0
    first = masks.sizes[0]
    if (differs := masks.sizes.ne(first).any(dim=1)).any():
        k = int(differs.nonzero()[0, 0])
        raise ValueError(
            f"rles must all be of one size, got {short(first.tolist())} and, at {k}, {short(masks.sizes[k].tolist())}: "
            "resize them or take them one by one."
        )
    height, width = first.tolist()
    return height, width


def _fake(runs, offsets, like, height, width):
    return like.new_empty(offsets.shape[0] - 1, height, width, dtype=torch.bool)


declare("decode(Tensor runs, Tensor offsets, Tensor like, int height, int width) -> Tensor", _fake)
