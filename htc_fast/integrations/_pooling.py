"""What the three modules share."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from htc_fast.ops._arguments import items, short
from htc_fast.ops.roi_align import with_numbers

LIBRARIES = {"MultiScaleRoIAlign": "torchvision", "ROIPooler": "detectron2", "SingleRoIExtractor": "mmdetection"}


def numbered(boxes: Sequence[Tensor], maps: Sequence[Tensor]) -> Tensor:
    """One [L, 4] per image of the maps -> [K, 5] float32, image number first.

    raises  ValueError, TypeError
    """
    maps = items("the feature maps", maps)
    if not maps:
        raise ValueError("expected 1 to 8 feature levels, got none.")
    return with_numbers(boxes, maps[0]).float()


def replace(model: nn.Module, ours: type[nn.Module], make: Callable[[Any], nn.Module]) -> int:
    """Put make(module) in place of every submodule whose class is called as ours is.

    returns  how many are ours now, those included that were before
    raises   TypeError where model is no module; ValueError where it holds no such submodule, or one that `make` does
             not understand
    """
    kind = ours.__name__
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {short(model)}.")
    # Not named_children, which names a module that stands in two places once.
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent._modules.items()
        if type(child).__name__ == kind
    ]
    if not found:
        raise ValueError(f"{type(model).__name__} holds no {kind}, so nothing can be swapped{_hint(model, kind)}.")
    made = {child: child if isinstance(child, ours) else _made(child, make) for child in {one[2] for one in found}}
    for parent, name, child in found:
        setattr(parent, name, made[child])
    return len(made)


def _made(old: Any, make: Callable[[Any], nn.Module]) -> nn.Module:
    try:
        return make(old).train(old.training)
    except (AttributeError, IndexError) as error:
        kind = type(old).__name__
        raise ValueError(f"this {kind} is not {LIBRARIES[kind]}'s, so it cannot be swapped: {error}.") from None


def _hint(model: nn.Module, kind: str) -> str:
    """What else the model may be."""
    if type(model).__name__ == kind:
        return ": give the detector that it is a part of"
    kinds = {type(one).__name__ for one in model.modules()}
    for other, library in LIBRARIES.items():
        if other in kinds:
            return f": its {other} is for htc_fast.integrations.{library}"
    return f": expected a detector of {LIBRARIES[kind]}"
