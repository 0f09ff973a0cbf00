"""What the three modules share."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def numbered(boxes: list[Tensor]) -> Tensor:
    """One [L, 4] per image -> [K, 5], image number first; float32, in which 16-bit coordinates would be rounded."""
    return torch.cat(
        [torch.cat([one.new_full((len(one), 1), number), one], 1).float() for number, one in enumerate(boxes)]
    )


def replace(model: nn.Module, kind: str, make: Callable[[Any], nn.Module]) -> int:
    """Put make(module) in place of every submodule whose class is called `kind`; how many there were."""
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child).__name__ == kind
    ]
    made = {child: make(child).train(child.training) for _, _, child in found}
    for parent, name, child in found:
        setattr(parent, name, made[child])
    return len(made)
