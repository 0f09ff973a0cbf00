"""Label maps as run lengths."""

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from htc_fast import UserError
from htc_fast.data.folders.maps import crop_to_rle, instances_of, read_map
from tests.data import raw


@pytest.mark.parametrize("shape, most", [((1, 1), 2), ((7, 1), 3), ((1, 9), 3), ((31, 47), 5), ((64, 64), 40)])
def test_each_number_is_what_pycocotools_encodes(shape, most):
    labels = np.random.default_rng(0).integers(0, most, shape).repeat(2, 0).repeat(3, 1)
    numbers, rles = instances_of(labels)
    assert numbers.tolist() == [one for one in np.unique(labels).tolist() if one]
    expected = [coco_mask.encode(np.asfortranarray(labels == one)) for one in numbers]
    assert [one["counts"] for one in rles] == [one["counts"] for one in expected]


def test_columns_that_are_full_are_one_run():
    [rle] = instances_of(np.full((3, 4), 70_000))[1]
    assert rle == coco_mask.encode(np.ones((3, 4), dtype=np.uint8, order="F"))


def test_nothing_in_a_map():
    assert instances_of(np.zeros((4, 4), dtype=int))[1] == [] and instances_of(np.zeros((0, 4), dtype=int))[1] == []


@pytest.mark.parametrize("corner", [(0, 0), (5, 3), (-2, -4), (18, 9), (-30, 0), (20, 0)])
def test_a_part_lies_where_it_belongs(corner):
    part = np.random.default_rng(1).integers(0, 2, (8, 6))
    whole = np.zeros((40, 60), dtype=np.uint8)
    whole[corner[1] + 14 : corner[1] + 22, corner[0] + 34 : corner[0] + 40] = part
    whole = whole[14:26, 34:54]
    found = crop_to_rle(part, corner, (12, 20))
    expected = coco_mask.encode(np.asfortranarray(whole)) if whole.any() else None
    assert found == expected


FILES = {
    "8 bits": (np.array([[0, 7]], dtype=np.uint8), "png", [[0, 7]]),
    "16 bits": (np.array([[0, 60_000]], dtype=np.uint16), "png", [[0, 60_000]]),
    "TIFF of 16 bits": (np.array([[0, 60_000]], dtype=np.uint16), "tif", [[0, 60_000]]),
    "TIFF of 32 bits": (np.array([[0, 90_000]], dtype=np.int32), "tif", [[0, 90_000]]),
    "TIFF of floats": (np.array([[0, 3]], dtype=np.float32), "tif", [[0, 3]]),
    "grey as colours": (np.array([[[0, 0, 0], [9, 9, 9]]], dtype=np.uint8), "png", [[0, 9]]),
    "colours": (np.array([[[0, 0, 0], [9, 1, 2]]], dtype=np.uint8), "png", [[0, 9 + 256 + 2 * 65536]]),
}


@pytest.mark.parametrize("values, suffix, expected", FILES.values(), ids=FILES)
def test_files(tmp_path, values, suffix, expected):
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    assert read_map(tmp_path / f"a.{suffix}").tolist() == expected


def test_what_is_no_map(tmp_path):
    Image.fromarray(np.array([[0, 1.5]], dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match="numbers with a fraction: expected one whole number per object"):
        read_map(tmp_path / "a.tif")
    Image.fromarray(np.array([[0, -3]], dtype=np.int32)).save(tmp_path / "b.tif")
    with pytest.raises(UserError, match="holds -3: expected 0 for nothing"):
        read_map(tmp_path / "b.tif")
    Image.new("L", (8, 8)).save(tmp_path / "c.jpg")
    with pytest.raises(UserError, match="is a JPEG, which changes numbers"):
        read_map(tmp_path / "c.jpg")
    for colour, channels in ((2, 3), (4, 2), (6, 4)):
        (tmp_path / "e.png").write_bytes(raw.png(np.full((4, 4, channels), 5, dtype=np.uint16), colour))
        with pytest.raises(UserError, match="holds colours of 16 bits: save its numbers as grey of 16 bits"):
            read_map(tmp_path / "e.png")
    (tmp_path / "e.png").write_bytes(raw.png(np.full((1, 2, 1), 5, dtype=np.uint16), 0))
    assert read_map(tmp_path / "e.png").tolist() == [[5, 5]]
    (tmp_path / "e.tif").write_bytes(raw.tiff(np.full((4, 4, 3), 5, dtype=np.uint16), 2))
    with pytest.raises(UserError, match="holds colours of 16 bits"):
        read_map(tmp_path / "e.tif")
    page = Image.new("L", (8, 8))
    page.save(tmp_path / "d.tif", save_all=True, append_images=[page])
    with pytest.raises(UserError, match="holds several pages"):
        read_map(tmp_path / "d.tif")
