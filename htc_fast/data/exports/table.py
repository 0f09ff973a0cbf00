"""A table with a row for each instance, for csv, pandas and spreadsheets."""

import os
from typing import Any

from htc_fast.data import runs
from htc_fast.data.exports.found import Found, rounded_mask_scores

COLUMNS = ("image", "class", "label", "score", "area", "centroid_x", "centroid_y", "x1", "y1", "x2", "y2", "mask_score")


def to_rows(found: Found, image: str | os.PathLike = "") -> list[dict[str, Any]]:
    """One dict for each instance, with the same keys: `pandas.DataFrame(rows)`, or `csv.DictWriter`.

    image    what the column "image" says
    returns  image, class, label, score, area in pixels; centroid_x, centroid_y and the box x1, y1, x2, y2 in pixels,
             where the first one's centre is 0.5; mask_score. What is not known is None: the centroid of a mask without
             pixels, a mask score that nobody gave
    """
    masks = runs.read(found.rle)
    centres = runs.centroids(masks).tolist()
    rows = []
    measured = zip(
        runs.areas(masks).tolist(), centres, found.boxes.double().tolist(), rounded_mask_scores(found), strict=True
    )
    for number, (area, centre, box, mask_score) in enumerate(measured):
        label, score = int(found.labels[number]), float(found.scores[number])
        places = [round(value, 3) if area else None for value in centre] + [round(value, 3) for value in box]
        values = (os.fspath(image), found.name(number), label, round(score, 5), area, *places, mask_score)
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows
