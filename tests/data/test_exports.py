"""Instances to labelme, YOLO, GeoJSON and tables, and their pixels back from there."""

import csv
import io
import json

import numpy as np
import pytest
import torch
import yaml

from htc_fast import UserError, ops
from htc_fast.data.exports.outlines import joined, simplified
from htc_fast.data.exports.yolo import data_yaml
from htc_fast.data.instances import Instances

SIZE = 24, 32
NAMES = ("cell", "née\n=1+1", "🦊, \"'")


def masks():
    """A ring; two parts, one with a hole; one pixel; none; all; two that touch at a corner."""
    found = np.zeros((6, *SIZE), dtype=bool)
    found[0, 2:10, 3:12], found[0, 4:7, 5:9] = True, False
    found[1, 12:20, 1:9], found[1, 14:16, 3:5], found[1, 2:5, 20:31] = True, False, True
    found[2, 23, 31] = found[4] = True
    found[5, 3:6, 3:6] = found[5, 6:9, 6:9] = True
    return found


def six(**more):
    rle = ops.encode(masks())
    return Instances(
        boxes=torch.tensor(
            [[3.0, 2, 12, 10], [1, 2, 31, 20], [31, 23, 32, 24], [4.25, 5, 6, 7.125], *[[0, 0, 32, 24]] * 2]
        ),
        scores=torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.123456]),
        labels=torch.tensor([0, 1, 2, 0, 1, 5]),
        rle=rle,
        size=SIZE,
        class_names=NAMES,
        **more,
    )


def drawn(polygons):
    """Polygons [[x, y], ...] as one mask, by the rule of the COCO API."""
    return ops.decode(ops.rasterize([[np.ravel(one).tolist() for one in polygons]], SIZE))[0].numpy()


def test_labelme_keeps_every_pixel():
    content = json.loads(json.dumps(six().to_labelme("../pictures/a.jpg")))
    shapes = content.pop("shapes")
    assert content == {
        "version": "5.5.0",
        "flags": {},
        "imagePath": "../pictures/a.jpg",
        "imageData": None,
        "imageHeight": 24,
        "imageWidth": 32,
    }
    assert [one["group_id"] for one in shapes] == [None, 1, 1, None, None, 5, 5]
    assert [one["label"] for one in shapes] == ["cell", NAMES[1], NAMES[1], NAMES[2], NAMES[1], "class 6", "class 6"]
    assert json.loads(shapes[0]["description"]) == {"score": 0.9} and shapes[6]["description"] == '{"score": 0.12346}'
    assert {(one["shape_type"], one["mask"]) for one in shapes} == {("polygon", None)}
    assert shapes[3]["points"] == [[31, 23], [32, 23], [32, 24], [31, 24]]
    instances = (shapes[:1], shapes[1:3], shapes[3:4], shapes[4:5], shapes[5:])
    for parts, number in zip(instances, (0, 1, 2, 4, 5), strict=True):
        assert np.array_equal(drawn([one["points"] for one in parts]), masks()[number]), number


def test_yolo_keeps_every_pixel():
    lines = six().to_yolo().splitlines()
    assert len(lines) == 5, "a mask without pixels has no line"
    assert lines[2] == "2 0.968750 0.958333 1.000000 0.958333 1.000000 1.000000 0.968750 1.000000"
    for line, number, label in zip(lines, (0, 1, 2, 4, 5), (0, 1, 2, 1, 5), strict=True):
        first, *values = line.split()
        outline = np.array(values, dtype=float).reshape(-1, 2)
        assert int(first) == label and 0 <= outline.min() and outline.max() <= 1
        assert np.array_equal(drawn([outline * (32, 24)]), masks()[number]), number
    assert six().to_yolo(scores=True).splitlines()[2].endswith(" 1.000000 0.70000")
    assert six()[[]].to_yolo() == ""


def test_yolo_of_a_large_picture_loses_none():
    side, mask = 20_000, np.zeros((16, 16), dtype=bool)
    mask[2:9, 3:14], mask[4:6, 5:11] = True, False
    rle = ops.shift(ops.encode(mask[None]), 19_983, 12_345, (side, side))
    found = Instances(ops.rle_to_box(rle), torch.ones(1), torch.zeros(1, dtype=torch.int64), rle, (side, side))
    values = np.array(found.to_yolo().split()[1:], dtype=float) * side
    back = ops.rasterize([[values.tolist()]], (side, side))
    assert back[0]["counts"] == rle[0]["counts"]
    row = found.to_rows()[0]
    assert (row["area"], row["centroid_x"], row["centroid_y"]) == (65, 19991.592, 12350.592)
    assert found.to_geojson()["features"][0]["geometry"]["coordinates"][0][0] == [19986, 12347]


def test_data_yaml_holds_any_name():
    text = data_yaml([*NAMES, "no", "1e3", "a: b", " ", "\u2028"])
    found = yaml.safe_load(text)
    assert found["names"] == dict(enumerate([*NAMES, "no", "1e3", "a: b", " ", "\u2028"]))
    assert (found["train"], found["val"]) == ("images", "images")


def test_fewer_corners_stay_near():
    rows, columns = np.mgrid[:120, :160]
    disc = ((rows - 60) ** 2 + (columns - 80) ** 2 < 50**2) & ((rows - 50) ** 2 + (columns - 70) ** 2 > 12**2)
    rle = ops.encode(disc[None])
    found = Instances(ops.rle_to_box(rle), torch.ones(1), torch.zeros(1, dtype=torch.int64), rle, (120, 160))
    exact, plain = (found.to_labelme("a", tolerance)["shapes"][0]["points"] for tolerance in (0, 1.0))
    assert len(exact) == 299 and len(plain) < 60
    back = ops.decode(ops.rasterize([[np.ravel(plain).tolist()]], (120, 160)))[0].numpy()
    assert (back & disc).sum() / (back | disc).sum() > 0.97
    assert len(found.to_yolo(tolerance=1.0).split()) == 1 + 2 * len(plain)
    for wrong in (-1, float("nan"), float("inf")):
        with pytest.raises(UserError, match="tolerance takes a finite number of at least 0"):
            found.to_yolo(tolerance=wrong)


@pytest.mark.parametrize("tolerance", ["1", True, -1, float("nan")])
def test_a_tolerance_is_a_number(tolerance):
    with pytest.raises(UserError, match="tolerance takes a finite number of at least 0, got"):
        six().to_yolo(tolerance=tolerance)


def test_rings_are_simplified_within_the_tolerance():
    square = np.array([[0, 0], [4, 0], [4, 1], [8, 1], [8, 8], [0, 8]])
    assert [one.tolist() for one in simplified([square, square + 9], 1.0)] == [
        [[0, 0], [8, 1], [8, 8], [0, 8]],
        [[9, 9], [17, 10], [17, 17], [9, 17]],
    ]
    assert simplified([square], 0.4)[0].tolist() == square.tolist()
    pixel = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    assert simplified([pixel], 9.0)[0].tolist() == pixel.tolist(), "nothing becomes a line"
    assert simplified([], 1.0) == []
    both = [[0, 0], [1, 0], [3, 0], [4, 0], [4, 1], [3, 1], [3, 0], [1, 0], [1, 1], [0, 1]]
    assert joined([pixel, pixel + [3, 0]]).tolist() == both


def test_geojson_has_holes_parts_and_the_right_hand():
    found = json.loads(json.dumps(six(mask_scores=torch.tensor([0.95, 0.9, 0.8, 0, 0.7, 0.6])).to_geojson()))
    first, second, pixel, none, _, touching = found["features"]
    assert found["type"] == "FeatureCollection" and "crs" not in found
    assert first["geometry"] == {
        "type": "Polygon",
        "coordinates": [
            [[3, 2], [12, 2], [12, 10], [3, 10], [3, 2]],
            [[5, 4], [5, 7], [9, 7], [9, 4], [5, 4]],
        ],
    }
    assert first["properties"] == {"class": "cell", "label": 0, "score": 0.9, "area": 60, "mask_score": 0.95}
    assert second["geometry"]["type"] == touching["geometry"]["type"] == "MultiPolygon"
    assert sorted(map(len, second["geometry"]["coordinates"])) == [1, 2], "one part has a hole"
    assert len(touching["geometry"]["coordinates"]) == 2 and touching["properties"]["class"] == "class 6"
    assert none["geometry"] is None and none["properties"]["area"] == 0
    assert pixel["properties"]["area"] == 1 and "mask_score" not in six().to_geojson()["features"][0]["properties"]


def test_geojson_on_a_map():
    north_up = (0.5, 0, 1000, 0, -0.5, 9000)
    found = six().to_geojson((*north_up, 0, 0, 1), crs="urn:ogc:def:crs:EPSG::32633")
    assert found["crs"] == {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    outer, hole = found["features"][0]["geometry"]["coordinates"]
    # As on paper, y up: the outer ring counterclockwise again, from the same corner.
    assert outer == [[1001.5, 8999], [1001.5, 8995], [1006, 8995], [1006, 8999], [1001.5, 8999]]
    assert hole[1] == [1004.5, 8998]
    assert six().to_geojson((0, 1, 5, 2, 0, 7))["features"][2]["geometry"]["coordinates"][0][0] == [28, 69]
    for wrong in (
        (1, 0, 0),
        (1, 2, 0, 2, 4, 0),
        (1, 0, 0, 0, float("nan"), 0),
        "abcdef",
        3,
        (1, 0, 0, 0, 1, 0, 1, 0, 1),
    ):
        with pytest.raises(UserError, match="transform takes six finite numbers a, b, c, d, e, f"):
            six().to_geojson(wrong)


def test_geojson_knows_gdals_order_when_it_sees_it():
    with pytest.raises(UserError, match=r"GDAL's geotransform.*order, \(0\.5, 0\.0, 1000\.0, 0\.0, -0\.5, 9000\.0\)"):
        six().to_geojson((1000, 0.5, 0, 9000, 0, -0.5))


def test_geojson_names_any_reference_system():
    class Crs:
        def __str__(self):
            return "EPSG:32633"

    names = [six().to_geojson(crs=crs)["crs"]["properties"]["name"] for crs in (32633, Crs())]
    assert names == ["urn:ogc:def:crs:EPSG::32633", "EPSG:32633"]


def test_a_row_for_each():
    rows = six(mask_scores=torch.tensor([0.951234, 0.9, 0.8, 0, 0.7, 0.6])).to_rows("dir/a,b\n.jpg")
    assert rows[0] == {
        "image": "dir/a,b\n.jpg",
        "class": "cell",
        "label": 0,
        "score": 0.9,
        "area": 60,
        "centroid_x": 7.6,
        "centroid_y": 6.1,
        "x1": 3.0,
        "y1": 2.0,
        "x2": 12.0,
        "y2": 10.0,
        "mask_score": 0.95123,
    }
    assert (rows[2]["centroid_x"], rows[2]["centroid_y"], rows[2]["area"]) == (31.5, 23.5, 1)
    assert (rows[3]["centroid_x"], rows[3]["area"], rows[3]["y2"], rows[3]["mask_score"]) == (None, 0, 7.125, 0)
    assert (rows[4]["centroid_x"], rows[4]["centroid_y"]) == (16, 12) and six().to_rows()[0]["mask_score"] is None
    for number in (0, 1, 4, 5):
        y, x = (place.mean() + 0.5 for place in masks()[number].nonzero())
        assert rows[number]["centroid_x"] == pytest.approx(x, abs=1e-3)
        assert rows[number]["centroid_y"] == pytest.approx(y, abs=1e-3)
    assert six()[[]].to_rows() == []


def test_a_row_survives_csv():
    text = io.StringIO()
    writer = csv.DictWriter(text, six().to_rows()[0])
    writer.writeheader()
    writer.writerows(six().to_rows('"=cmd|"\n,'))
    back = list(csv.DictReader(io.StringIO(text.getvalue(), newline="")))
    assert [one["class"] for one in back] == ["cell", NAMES[1], NAMES[2], "cell", NAMES[1], "class 6"]
    assert {one["image"] for one in back} == {'"=cmd|"\n,'} and back[3]["centroid_x"] == "" and back[0]["area"] == "60"
