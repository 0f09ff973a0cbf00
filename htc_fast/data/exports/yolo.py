"""YOLO's labels for segmentation: a line for each instance, its class and an outline in shares of the picture."""

from collections.abc import Sequence

import numpy as np
import yaml

from htc_fast.data.exports.found import Found
from htc_fast.data.exports.outlines import joined, polygons


def to_yolo(found: Found, scores: bool = False, tolerance: float = 0.0) -> str:
    """The lines of one picture's label file.

    scores     end each line with its score, as ultralytics' save_conf does; files to train with have none
    tolerance  pixels that an outline may leave the masks' edges, to have fewer corners; 0: it follows them
    returns    "label x y x y ...", of the picture's width and height, with six decimals: below 0.01 pixels in 20,000.
               The outline goes to holes and to further parts and back on one way. A mask without pixels has no line
    raises     UserError if the tolerance is no number of at least 0
    """
    height, width = found.size
    lines = []
    rows = zip(polygons(found.rle, tolerance), found.labels.tolist(), found.scores.tolist(), strict=True)
    for pieces, label, score in rows:
        if not pieces:
            continue
        values = (joined(pieces) / np.array([width, height])).flatten().tolist()
        lines.append(f"{label}{' %.6f' * len(values) % tuple(values)}{f' {score:.5f}' if scores else ''}\n")
    return "".join(lines)


def data_yaml(names: Sequence[str]) -> str:
    """A data set's data.yaml, beside its folders images/ and labels/; names by label."""
    content = {"train": "images", "val": "images", "names": dict(enumerate(map(str, names)))}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
