"""GeoTIFF tags, written as OGC GeoTIFF 1.1 says them; the transforms are those that GDAL 3.10 reads from such files."""

import pytest
from PIL import Image, TiffImagePlugin

from htc_fast.data.exports.georeference import georeference

DOUBLE, SHORT = 12, 3
ALONE = (0, 0, 0, 500000.0, 4600000.0, 0)
UTM = "urn:ogc:def:crs:EPSG::32633"


def keys(**named):
    """Model type, raster type and code, each in the directory itself; a citation that lies elsewhere."""
    entries = [1024, 0, 1, 1, 1025, 0, 1, named.get("raster", 1), 1026, 34737, 9, 0]
    entries += [named["key"], 0, 1, named["code"]] if "code" in named else []
    return (1, 1, 0, len(entries) // 4, *entries)


PROJECTED = keys(key=3072, code=32633)


@pytest.fixture
def tiff(tmp_path):
    def tiff(orientation=None, **tags):
        made, numbers = TiffImagePlugin.ImageFileDirectory_v2(), {"scale": 33550, "points": 33922, "matrix": 34264}
        for name, values in tags.items():
            number = {**numbers, "keys": 34735}[name]
            made.tagtype[number] = SHORT if name == "keys" else DOUBLE
            made[number] = values
        if orientation:
            made[274] = orientation
        Image.new("RGB", (8, 6)).save(tmp_path / "a.tif", tiffinfo=made)
        return tmp_path / "a.tif"

    return tiff


@pytest.mark.parametrize(
    ("tags", "expected", "crs"),
    [
        ({"scale": (0.5, 0.25, 0), "points": ALONE, "keys": PROJECTED}, (0.5, 0, 500000, 0, -0.25, 4600000), UTM),
        (
            {"scale": (0.5, 0.25, 0), "points": (4, 2, 0, 500002.0, 4599999.5, 0), "keys": PROJECTED},
            (0.5, 0, 500000, 0, -0.25, 4600000),
            UTM,
        ),
        (
            {"scale": (0.5, 0.5, 0), "points": ALONE, "keys": keys(raster=2, key=3072, code=32633)},
            (0.5, 0, 499999.75, 0, -0.5, 4600000.25),
            UTM,
        ),
        (
            {"matrix": (0.4, 0.3, 0, 7, 0.3, -0.4, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1), "keys": PROJECTED},
            (0.4, 0.3, 7, 0.3, -0.4, 9),
            UTM,
        ),
        (
            {"scale": (0.5, 0.5, 0), "points": ALONE, "keys": keys(key=2048, code=4326)},
            (0.5, 0, 500000, 0, -0.5, 4600000),
            None,
        ),
        (
            {"scale": (0.5, -0.5, 0), "points": ALONE, "keys": keys(key=2048, code=4269)},
            (0.5, 0, 500000, 0, -0.5, 4600000),
            "urn:ogc:def:crs:EPSG::4269",
        ),
    ],
)
def test_transform_and_code(tiff, tags, expected, crs, capsys):
    transform, found = georeference(tiff(**tags))
    assert transform == pytest.approx(expected, abs=1e-9) and found == crs
    assert not capsys.readouterr().err


def test_a_projection_of_its_own_is_said(tiff, capsys):
    path = tiff(scale=(1.0, 1.0, 0.0), points=ALONE, keys=keys(key=3072, code=32767))
    assert georeference(path) == ((1, 0, 500000, 0, -1, 4600000), None)
    assert "a.tif names no EPSG code" in capsys.readouterr().err


@pytest.mark.parametrize(
    "tags", [{"points": (*ALONE, *ALONE)}, {"scale": (1.0, 1.0, 0.0), "points": ALONE, "orientation": 6}]
)
def test_what_is_no_affine_map_is_said(tiff, capsys, tags):
    assert georeference(tiff(keys=PROJECTED, **tags)) == (None, None)
    assert "a.tif lies on a map in a way that is not read, so its GeoJSON is in pixels" in capsys.readouterr().err


def test_other_pictures_say_nothing(tiff, tmp_path, capsys):
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    assert georeference(tmp_path / "a.png") == georeference(tiff()) == (None, None)
    assert not capsys.readouterr().err
