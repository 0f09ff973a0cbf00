"""Where a picture lies on a map: what a GeoTIFF says of itself."""

from pathlib import Path
from typing import Any

from PIL import TiffImagePlugin

from htc_fast.data.decode import ORIENTATION, opened
from htc_fast.errors import say_once

SCALE, TIEPOINTS, MATRIX, KEYS = 33550, 33922, 34264, 34735  # tags
RASTER_TYPE, GEOGRAPHIC, PROJECTED = 1025, 2048, 3072  # keys
CENTRES = 2  # raster type: coordinates are those of the pixels' centres, not of their corners
WGS84, OWN_CODE = 4326, 32767


def georeference(path: Path) -> tuple[tuple[float, ...] | None, str | None]:
    """What `to_geojson` takes to put a picture's instances on its map.

    returns  transform as rasterio's Affine and crs, None where it is WGS 84; both None: the file does not say
    raises   UserError if it is no picture
    source   OGC GeoTIFF 1.1, sections 7.1 and B.6
    """
    with opened(path, str(path)) as picture:
        tags = picture.tag_v2 if isinstance(picture, TiffImagePlugin.TiffImageFile) else {}
        found = {tag: tags[tag] for tag in (SCALE, TIEPOINTS, MATRIX, KEYS, ORIENTATION) if tag in tags}
    keys = _keys(found.get(KEYS, ()))
    transform = _transform(found)
    if transform is None or found.get(ORIENTATION, 1) != 1:
        if keys:
            say_once(f"{path} lies on a map in a way that is not read, so its GeoJSON is in pixels.")
        return None, None
    if keys.get(RASTER_TYPE) == CENTRES:
        a, b, c, d, e, f = transform
        transform = (a, b, c - (a + b) / 2, d, e, f - (d + e) / 2)
    code = keys.get(PROJECTED, keys.get(GEOGRAPHIC, OWN_CODE))
    if code == OWN_CODE or not code:
        say_once(f"{path} names no EPSG code, so its GeoJSON has none either: set its projection where you open it.")
        return transform, None
    return transform, None if code == WGS84 else f"urn:ogc:def:crs:EPSG::{code}"


def _transform(tags: dict[int, Any]) -> tuple[float, ...] | None:
    """Of a whole matrix, or of one point and the scale; several points without a scale are no affine map."""
    matrix, scale, points = (tuple(tags.get(tag, ())) for tag in (MATRIX, SCALE, TIEPOINTS))
    if len(matrix) == 16:
        return (*matrix[:2], matrix[3], *matrix[4:6], matrix[7])
    if len(scale) < 2 or len(points) != 6:
        return None
    column, row, _, x, y, _ = points
    down = -abs(scale[1])  # as GDAL: some files have its sign
    return scale[0], 0.0, x - column * scale[0], 0.0, down, y - row * down


def _keys(directory: tuple[int, ...]) -> dict[int, int]:
    """Those whose value is in the directory itself."""
    entries = (directory[start : start + 4] for start in range(4, len(directory) - 3, 4))
    return {key: value for key, place, _, value in entries if place == 0}
