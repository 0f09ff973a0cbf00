"""Stochastic depth of a backbone: timm's `DropPath` modules, as the configuration's `drop_path` wants them."""

from timm.layers import DropPath
from torch import nn

from htc_fast.errors import UserError

OPTION = "drop_path_rate"  # as timm's models call it; blocks get shares of it that grow linearly


def refused(name: str) -> UserError:
    """What to say where a backbone has no stochastic depth."""
    return UserError(
        f"drop_path drops residual blocks of the backbone in training, and timm's {name!r} cannot do that: choose one "
        "that can, such as resnet50, convnext_tiny or swin_tiny_patch4_window7_224, or set drop_path=0."
    )


def check(net: nn.Module, name: str, rate: float) -> None:
    """See that blocks are dropped where `rate` asks for it; without, that none is, whatever timm's own default.

    raises  UserError if it asks in vain
    """
    paths = paths_of(net)
    if rate > 0 and not any(path.drop_prob for path in paths):
        raise refused(name)
    for path in paths if rate <= 0 else []:
        path.drop_prob = 0.0


def paths_of(net: nn.Module) -> list[DropPath]:
    """Its modules that drop blocks, in order."""
    return [module for module in net.modules() if isinstance(module, DropPath)]
