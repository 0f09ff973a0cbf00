"""torchvision's detectors: `accelerate(model)` for a whole one, `replace_pooling(model)` for its RoI pooling alone,
modules to build with, and `patch_ops()` to put these operators in the place of torchvision's for a while."""

from htc_fast.integrations.torchvision.exchange import accelerate, restore
from htc_fast.integrations.torchvision.patch import patch_ops
from htc_fast.integrations.torchvision.pooling import MultiScaleRoIAlign, RoIAlign, replace_pooling

__all__ = ["MultiScaleRoIAlign", "RoIAlign", "accelerate", "patch_ops", "replace_pooling", "restore"]
