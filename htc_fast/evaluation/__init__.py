"""Evaluation: COCO metrics of boxes and masks."""

from htc_fast.evaluation.coco import Scores, evaluate

__all__ = ["Scores", "evaluate"]
