"""GeoJSON: masks as polygons with holes, in pixels of the picture or on a map."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from htc_fast.data import runs
from htc_fast.data.exports.found import Found, rounded_mask_scores
from htc_fast.errors import UserError, shown


def to_geojson(found: Found, transform: Sequence[float] | None = None, crs: Any = None) -> dict[str, Any]:
    """A FeatureCollection of one picture.

    transform  a, b, c, d, e, f as rasterio's Affine has them (GDAL's geotransform is c, a, b, f, d, e): the corner x, y
               of a pixel lies at a x + b y + c, d x + e y + f; None: at x, y, and y grows downwards
    crs        what the coordinates count in where it is not WGS 84, such as "urn:ogc:def:crs:EPSG::32633", rasterio's
               or pyproj's CRS, or a number of EPSG: written as GDAL and QGIS read it; None: left out
    returns    a feature for each instance: a Polygon, a MultiPolygon for several parts, or no geometry for a mask
               without pixels; properties class, label, score, area in pixels, mask_score where it is known
    raises     UserError if the transform is not six finite numbers, flattens everything, or is in GDAL's order
    source     RFC 7946, rings by the right-hand rule of the coordinates: outer ones counterclockwise where y grows up
    """
    matrix = None if transform is None else _matrix(transform)
    features = []
    certain = rounded_mask_scores(found)
    measured = zip(found.labels.tolist(), found.scores.tolist(), found.areas.tolist(), certain, strict=True)
    rows = zip(runs.outlines(found.rle, "separate"), measured, strict=True)
    for number, (pieces, (label, score, area, mask_score)) in enumerate(rows):
        properties = {"class": found.name(number), "label": label, "score": round(score, 5), "area": area}
        if mask_score is not None:
            properties["mask_score"] = mask_score
        features.append({"type": "Feature", "geometry": _geometry(pieces, matrix), "properties": properties})
    name = f"urn:ogc:def:crs:EPSG::{crs}" if isinstance(crs, int) else str(crs)
    named = {} if crs is None else {"crs": {"type": "name", "properties": {"name": name}}}
    return {"type": "FeatureCollection", **named, "features": features}


def _matrix(transform: Sequence[float]) -> np.ndarray:
    """[2, 3]; rasterio's own Affine has a third row, which is always 0, 0, 1."""
    try:
        values = np.array([float(value) for value in transform])
    except (TypeError, ValueError):
        values = np.zeros(0)
    whole = len(values) == 6 or (len(values) == 9 and values[6:].tolist() == [0, 0, 1])
    matrix = values[:6].reshape(2, 3) if whole else np.zeros((2, 3))
    if not np.isfinite(matrix).all() or not np.linalg.det(matrix[:, :2]):
        raise UserError(
            f"transform takes six finite numbers a, b, c, d, e, f as rasterio's Affine has them, with a e != b d, got "
            f"{shown(transform)}."
        )
    (a, b, c), (d, e, f) = matrix.tolist()
    if a and not c and not e:  # a picture north up as GDAL tells it; here its pixels would be sheared
        raise UserError(
            f"transform looks like GDAL's geotransform, got {shown(transform)}: give it in rasterio's order, "
            f"{(b, c, a, e, f, d)}."
        )
    return matrix


def _geometry(pieces: list[dict], matrix: np.ndarray | None) -> dict[str, Any] | None:
    if not pieces:
        return None
    polygons = [[_ring(ring, matrix) for ring in (piece["outer"], *piece["holes"])] for piece in pieces]
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons}


def _ring(ring: list, matrix: np.ndarray | None) -> list[list[float]]:
    """Closed; turned round where the transform mirrors."""
    closed = [*ring, ring[0]]
    if matrix is None:
        return closed
    moved = np.array(closed) @ matrix[:, :2].T + matrix[:, 2]
    return (moved if np.linalg.det(matrix[:, :2]) > 0 else moved[::-1]).tolist()
