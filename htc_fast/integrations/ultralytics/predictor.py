"""A predictor for YOLO-seg whose results carry run lengths instead of masks: `model.predict(source, predictor=...)`."""

from typing import Any

from ultralytics.engine.results import Results
from ultralytics.models.yolo.segment import SegmentationPredictor

from htc_fast.integrations.ultralytics import instances


class RLEPredictor(SegmentationPredictor):
    """ultralytics' own, but for the masks: `result.instances` holds them as RLEs, and `result.masks` is None.

    returns  Results with boxes, names and everything else of theirs
    """

    def construct_result(self, pred: Any, img: Any, orig_img: Any, img_path: Any, proto: Any) -> Results:
        """One picture's result: rows of `result.boxes` and of `result.instances` are the same detections."""
        names = self.model.names
        listed = [names[label] for label in range(len(names))]
        found = instances(pred, proto.float(), tuple(img.shape[2:]), tuple(orig_img.shape[:2]), listed)
        rows = pred.new_empty(len(found), 6)
        rows[:, :4], rows[:, 4], rows[:, 5] = found.boxes, found.scores, found.labels
        result = Results(orig_img, path=img_path, names=names, boxes=rows)
        result.instances = found
        return result
