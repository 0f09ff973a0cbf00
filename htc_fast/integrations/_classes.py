"""A detector's modules take classes of ours, which inherit from theirs: objects, weights and hooks stay as they are."""

from collections.abc import Mapping
from typing import TypeVar

from torch import nn

from htc_fast.errors import short
from htc_fast.integrations import _layers

Model = TypeVar("Model", bound=nn.Module)


def take(model: Model, ours: Mapping[type, type], library: str) -> Model:
    """Give every module whose class stands in `ours` the class beside it; what is ours already stays so.

    ours     a class of the library -> our subclass of it, which adds no state
    returns  the model itself
    raises   TypeError where model is no module; ValueError where nothing in it fits
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {short(model)}.")
    modules = list(model.modules())
    if not any(type(one) in ours or type(one) in ours.values() for one in modules):
        raise ValueError(f"{type(model).__name__} holds nothing to accelerate: expected a detector of {library}.")
    for one in modules:
        one.__class__ = ours.get(type(one), type(one))
    return model


def give_back(model: Model, ours: Mapping[type, type]) -> Model:
    """Undo `take`; a model that never took anything stays as it is.

    returns  the model itself
    raises   TypeError where model is no module
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {short(model)}.")
    theirs = {new: old for old, new in ours.items()}
    for one in model.modules():
        one.__class__ = theirs.get(type(one), type(one))
    _layers.forget(model)
    return model
