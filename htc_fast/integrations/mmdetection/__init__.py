"""mmdetection's detectors: `accelerate(model)` for a whole one, `replace_pooling(model)` for its RoI pooling alone."""

from htc_fast.integrations.mmdetection.checkpoints import allow_checkpoints
from htc_fast.integrations.mmdetection.exchange import accelerate, restore
from htc_fast.integrations.mmdetection.pooling import SingleRoIExtractor, replace_pooling

__all__ = ["SingleRoIExtractor", "accelerate", "allow_checkpoints", "replace_pooling", "restore"]
