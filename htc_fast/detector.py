"""A detector as its users hold it: the network of `models`, with `losses` to train it and `predict` for pictures."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from htc_fast.criterion.losses import losses
from htc_fast.device import find_device
from htc_fast.errors import UserError, say_once, shown
from htc_fast.inference.predict import predict
from htc_fast.inference.share import push_to_hub, save
from htc_fast.models import zoo
from htc_fast.models.htc import HTC
from htc_fast.models.weights import files, source
from htc_fast.models.weights.fit import fitting
from htc_fast.models.weights.load import load_weights, read
from htc_fast.models.weights.rows import check_order


class Detector(HTC):
    """Hybrid Task Cascade and its family: `detect` tensors, `predict` pictures, `losses` to train; `save` and share."""

    losses = losses
    predict = predict
    save = save
    push_to_hub = push_to_hub


def list_models() -> list[str]:
    """The names that `create_model` knows."""
    return zoo.list_models()


def create_model(name: str, *, num_classes: int = 80, weights: str | Path | None = None, **overrides: Any) -> Detector:
    """Build a detector by name.

    name         one of `list_models()`
    num_classes  foreground classes
    weights      "coco" or, by how long they were trained, "coco-1x", "coco-20e", …: its authors' weights for COCO;
                 "hf-hub:owner/name" or "hf-hub:owner/name@revision": of the Hugging Face Hub, by `push_to_hub`; or
                 path of a checkpoint: ours (safetensors), mmdetection's (1.x to 3.x), torchvision's or detectron2's;
                 what the last two's networks do otherwise (RoIAlign, strides, anchors, scores), the model does too,
                 and of ours also the names and category ids of the classes and the image size
    overrides    fields of `models.config.Model`, such as backbone="convnext_tiny", pretrained=True, semantic="box"
    raises       UserError for an unknown name or option, a value of another kind, or weights that do not fit or have
                 another number of classes
    """
    if weights is None:
        return Detector(zoo.config(name, num_classes=num_classes, **overrides))
    file = read(source.local(_path(weights), name, num_classes), num_classes)
    file.check(num_classes)
    described = file.described(num_classes)
    check_order(overrides.get("class_names") or (), described.get("class_names", ()))
    options = {**file.built, **described, **overrides}
    model = Detector(zoo.config(name, num_classes=num_classes, **options))
    load_weights(model, file)
    return model


def load(
    weights: str | Path,
    name: str | None = None,
    num_classes: int | None = None,
    device: str | None = None,
    *,
    otherwise: str | None = None,
) -> Detector:
    """Build the detector that a file was saved from, with all it knows, ready to predict.

    weights      path of ours, which says how it was built, or of another library's checkpoint; "hf-hub:owner/name" or
                 "hf-hub:owner/name@revision"; or with `name` its public weights: "coco", "coco-20e", …
    name         one of `list_models()`, needed where the file does not say it
    num_classes  None: as many as the file has
    device       "cpu", "cuda", "cuda:1"; None: a GPU if there is one
    otherwise    name of a file that does not say its own; a `name` counts also for one that does
    returns      Detector in evaluation mode; `config` has its class names, category ids and image size
    raises       UserError if the file cannot be used, names no model, or the device is not there
    """
    where = find_device(device)
    file = read(source.local(_path(weights), name or otherwise, num_classes), num_classes)
    file.check(num_classes)
    saved = file.config
    name = otherwise if saved is None and name is None else name
    if saved is not None and name in (None, saved.name):
        # The file's own weights follow: nothing is to be downloaded.
        config = replace(saved, pretrained=False)
    elif name is None:
        names = fitting(file.tensors)
        hint = f"; it fits {', '.join(names)}" if names else ""
        raise UserError(
            f"{weights} does not say which model it belongs to: name it with --model (in Python: name=){hint}."
        )
    else:
        if saved is not None:
            say_once(f"{weights} was saved as {saved.name}, and is read as {name}, as asked.")
        count = num_classes or file.num_classes or 80
        config = zoo.config(name, num_classes=count, **file.built, **file.described(count))
    model = Detector(config)
    load_weights(model, file)
    return model.eval().to(where)


def holds_weights(folder: Path) -> bool:
    """Whether a folder has a file that may be a checkpoint."""
    return any(one.suffix in files.SUFFIXES for one in folder.iterdir())


def _path(weights: Any) -> str | Path:
    if not isinstance(weights, (str, Path)):
        raise UserError(f"weights must be a path or a name, got {shown(weights)}.")
    return weights
