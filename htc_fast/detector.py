"""A detector as its users hold it: the network of `models`, with `losses` from training and `predict` for pictures."""

from htc_fast.models import zoo
from htc_fast.models.htc import HTC
from htc_fast.models.weights import load_weights, read
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
    weights      path of a checkpoint: ours (safetensors), mmdetection's (1.x to 3.x), torchvision's or detectron2's;
                 what the last two's networks do otherwise (RoIAlign, strides, anchors, scores), the model does too
    overrides    fields of `models.config.Model`, such as backbone="convnext_tiny", pretrained=True, semantic="box"
    raises       UserError for an unknown name or option, or weights that do not fit
    """
    if weights is None:
        return Detector(zoo.config(name, num_classes=num_classes, **overrides))
    file = read(weights, num_classes)
    model = Detector(zoo.config(name, num_classes=num_classes, **{**file.options, **overrides}))
    load_weights(model, file)
    return model
