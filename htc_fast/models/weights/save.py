"""A detector as bytes."""

import json
from dataclasses import asdict

import safetensors.torch

from htc_fast.models.htc import HTC


def weights_bytes(model: HTC, iteration: int | None = None) -> bytes:
    """A model as safetensors, with its configuration inside, so that the file alone rebuilds it.

    iteration  of the training run, to be found again by `training.checkpoint.iteration_of`
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    about = {"model": model.config.name, "config": json.dumps(asdict(model.config))}
    return safetensors.torch.save(tensors, about if iteration is None else {**about, "iteration": str(iteration)})
