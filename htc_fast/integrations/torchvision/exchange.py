"""Which of torchvision's classes have one of ours."""

from typing import TypeVar

from torch import nn

from htc_fast.integrations import _classes
from htc_fast.integrations.torchvision import backbones, dense_heads, one_stage, two_stages

Model = TypeVar("Model", bound=nn.Module)
DETECTORS = {**two_stages.OURS, **one_stage.OURS}
OURS = {**backbones.OURS, **dense_heads.OURS, **DETECTORS}


def accelerate(model: Model) -> Model:
    """Run a torchvision detector over these operators, in place: its modules take classes of ours.

    model    Faster, Mask, Keypoint R-CNN, RetinaNet, FCOS, SSD, or a module that holds one
    returns  the model itself: the same detections and losses up to rounding; weights, names and hooks stay.
             Convolutions are faster in eval() without gradient; torch.jit.script compiles torchvision's own code
    raises   TypeError where model is no module; ValueError where nothing in it fits
    """
    if isinstance(model, nn.Module) and not any(_fits(one) for one in model.modules()):
        raise ValueError(f"{type(model).__name__} holds nothing to accelerate: expected a detector of torchvision.")
    return _classes.take(model, OURS, "torchvision")


def restore(model: Model) -> Model:
    """Undo `accelerate`; a model that never was stays as it is.

    returns  the model itself
    raises   TypeError where model is no module
    """
    return _classes.give_back(model, OURS)


def _fits(module: nn.Module) -> bool:
    return type(module) in DETECTORS or type(module) in DETECTORS.values()
