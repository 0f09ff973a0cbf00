"""labelme: predictions as polygons that its editor opens, to be corrected by hand."""

import json
import os
from typing import Any

from htc_fast.data.exports.found import Found
from htc_fast.data.exports.outlines import polygons

VERSION = "5.5.0"  # of the format: labelme 5 and 6 read it


def to_labelme(found: Found, image_path: str | os.PathLike, tolerance: float = 0.0) -> dict[str, Any]:
    """labelme's JSON of one picture.

    image_path  of the picture, relative to the folder that the JSON file lies in
    tolerance   pixels that an outline may leave the masks' edges, to have fewer corners to move; 0: it follows them
    returns     a polygon for each part of an instance, going to its holes and back on one way; parts of one instance
                have one group_id, its number among the instances. Coordinates are edges of pixels, the score is in the
                description, as labelme writes that of its own detector. A mask without pixels has no shape
    raises      UserError if the tolerance is no number of at least 0
    """
    shapes = []
    for number, (pieces, score) in enumerate(zip(polygons(found.rle, tolerance), found.scores.tolist(), strict=True)):
        for piece in pieces:
            shapes.append(
                {
                    "label": found.name(number),
                    "points": piece.tolist(),
                    "group_id": number if len(pieces) > 1 else None,
                    "description": json.dumps({"score": round(score, 5)}),
                    "shape_type": "polygon",
                    "flags": {},
                    "mask": None,
                }
            )
    height, width = found.size
    return {
        "version": VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": os.fspath(image_path),
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }
