"""Which of mmdetection's classes have one of ours; mmdetection itself is imported at the first call."""

from typing import TypeVar

from torch import nn

from htc_fast.integrations import _classes

Model = TypeVar("Model", bound=nn.Module)


def accelerate(model: Model) -> Model:
    """Run an mmdetection model over these operators, in place: its modules take classes of ours.

    model    any detector of mmdetection 3.x, with mmcv's own extension or with ours (integrations.mmcv.install())
    returns  the model itself: the same detections and losses up to rounding; weights, names and hooks stay
    raises   TypeError where model is no module; ValueError where nothing in it fits; ImportError without mmdetection
    """
    return _classes.take(model, _pairs(), "mmdetection")


def restore(model: Model) -> Model:
    """Undo `accelerate`; a model that never was stays as it is.

    returns  the model itself
    raises   TypeError where model is no module; ImportError without mmdetection
    """
    return _classes.give_back(model, _pairs())


def _pairs() -> dict[type, type]:
    """A class of mmdetection's -> ours."""
    try:
        import mmdet.models  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"mmdetection cannot be imported ({error}): install it, and call htc_fast.integrations.mmcv.install() "
            "before its first import where mmcv has no compiled extension."
        ) from error
    from htc_fast.integrations.mmdetection import box_heads, convolutions, dense_heads, roi_heads

    return {**convolutions.OURS, **dense_heads.OURS, **box_heads.OURS, **roi_heads.OURS}
