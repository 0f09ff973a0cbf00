"""A detector as its users hold it: the network of `models`, with `losses` from training and `predict` for pictures."""

from htc_fast.models import zoo
from htc_fast.models.htc import HTC
from htc_fast.models.weights import load_weights
from htc_fast.prediction import predict
from htc_fast.training.losses import losses


class Detector(HTC):
    """Hybrid Task Cascade and its family: `detect` tensors, `predict` pictures, `losses` to train."""

    losses = losses
    predict = predict


def list_models() -> list[str]:
    """The names that `create_model` knows."""
    return zoo.list_models()


def create_model(name: str, *, num_classes: int = 80, weights: str | None = None, **overrides) -> Detector:
    """Build a detector by name.

    name         one of `list_models()`
    num_classes  foreground classes
    weights      path of a checkpoint: ours (safetensors) or mmdetection's (1.x to 3.x)
    overrides    fields of `models.config.Model`, such as backbone="convnext_tiny", pretrained=True, semantic="box"
    raises       UserError for an unknown name or option, or weights that do not fit
    """
    model = Detector(zoo.config(name, num_classes=num_classes, **overrides))
    if weights is not None:
        load_weights(model, weights)
    return model
