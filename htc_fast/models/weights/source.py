"""Where weights come from: a path, the name of a public checkpoint, or a repository of the Hugging Face Hub."""

from pathlib import Path

from htc_fast.errors import UserError
from htc_fast.models.weights import files, hub, public


def check(weights: str | Path | None, model: str | None) -> None:
    """See, without network, that a name of a public checkpoint is one that the model has; anything else passes.

    raises  UserError
    """
    if weights is not None and not hub.is_name(weights) and public.is_name(weights):
        public.find(weights, model)


def check_file(weights: str | Path | None) -> None:
    """raises  UserError for a path where no file is; names pass"""
    if weights is not None and not hub.is_name(weights) and not public.is_name(weights):
        files.found(Path(weights))


def local(weights: str | Path, model: str | None, num_classes: int | None = None) -> str | Path:
    """The path of a file: what is a name is downloaded, once.

    weights      "coco" or "coco-20e", "hf-hub:owner/name" or "hf-hub:owner/name@revision", or a path, as it is
    model        name of the model, which public checkpoints are found by
    num_classes  of the model; None: as many as the file has
    raises       UserError if there is no such name, its file cannot be had, or it would have other classes
    """
    if hub.is_name(weights):
        return hub.fetch(weights)
    if not public.is_name(weights):
        return weights
    found = public.find(weights, model)
    if num_classes not in (None, found.num_classes):
        raise UserError(
            f"weights {weights} have COCO's {found.num_classes} classes and the model is to have {num_classes}: leave "
            "out num_classes, or train on your classes from these weights (--weights, in Python TrainingRun(weights=))."
        )
    return public.fetch(found)
