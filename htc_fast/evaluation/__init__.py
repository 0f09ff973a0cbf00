"""Evaluation: COCO metrics of boxes and masks, htc_fast's own and any detector's."""

from htc_fast.evaluation.coco import evaluate
from htc_fast.evaluation.evaluate_coco import Scores, evaluate_coco

__all__ = ["Scores", "evaluate", "evaluate_coco"]
