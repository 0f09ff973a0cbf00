"""Annotation files: what is read, what is dropped and said, what is an error."""

import json

import pytest

from htc_fast import UserError
from htc_fast.data.annotations import read_annotations
from htc_fast.data.classes import relabelled
from htc_fast.errors import say_once
from tests.data.builder import CATEGORIES, image, instance, rectangle, two_pictures


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "instances.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


BAD_FILES = {
    "malformed": ('{"images": [', "not valid JSON"),
    "empty": ("", "not valid JSON"),
    "a list": ([1, 2], "holds a JSON list"),
    "no images": ({"categories": CATEGORIES}, "no list of 'images'"),
    "empty images": ({"images": [], "categories": CATEGORIES}, "lists no images"),
    "no categories": ({"images": [image(1)]}, "no list of 'categories'"),
    "empty categories": ({"images": [image(1)], "categories": []}, "different ids"),
    "category twice": ({"images": [image(1)], "categories": [{"id": 1}, {"id": 1}]}, "different ids"),
    "image twice": ({"images": [image(1), image(1)], "categories": CATEGORIES}, "appears twice"),
    "no file name": ({"images": [{"id": 1}], "categories": CATEGORIES}, "image of id 1 lacks 'file_name'"),
    "no size": ({"images": [{"id": 1, "file_name": "a.jpg"}], "categories": CATEGORIES}, "needs a positive"),
    "annotations no list": ({"images": [image(1)], "categories": CATEGORIES, "annotations": {}}, "'annotations'"),
}


@pytest.mark.parametrize("content, sentence", BAD_FILES.values(), ids=BAD_FILES)
def test_bad_file(write, content, sentence):
    with pytest.raises(UserError, match=sentence):
        read_annotations(write(content))


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="is missing"):
        read_annotations(tmp_path / "no.json")


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/passwd", "a/../../b.jpg", "..\\a.jpg", "C:\\a.jpg", ".", "a/.."])
def test_file_name_that_leaves_the_folder(write, name):
    with pytest.raises(UserError, match="leaves the image folder"):
        read_annotations(write({"images": [image(1, name=name)], "categories": CATEGORIES}))


@pytest.mark.parametrize("name", ["a.jpg", "sub/a.jpg", "sub/../a.jpg", "..a.jpg"])
def test_file_name_inside(write, name):
    found = read_annotations(write({"images": [image(1, name=name)], "categories": CATEGORIES}))
    assert found.file_names == [name] and not found.labelled


def test_labels_are_ranks_of_any_ids(write):
    found = read_annotations(write(two_pictures()))
    assert found.category_ids == [3, 7, 90] and found.classes == ["dog", "cat", "owl"]
    assert [[item.label for item in picture.annotations] for picture in found.pictures] == [[0, 2], [1]]
    words = {
        **two_pictures(),
        "categories": [{"id": "b"}, {"id": "a", "name": "first"}],
        "annotations": [instance(10, "b", 0, 0, 9, 9)],
    }
    found = read_annotations(write(words))
    assert found.classes == ["first", "b"] and found.pictures[0].annotations[0].label == 1


def test_chosen_classes(write):
    found = read_annotations(write(two_pictures()), classes=["owl", "dog"])
    assert found.category_ids == [90, 3] and found.trainable == [2, 0]
    with pytest.raises(UserError, match="no category 'fox'"):
        read_annotations(write(two_pictures()), classes=["fox"])


def test_equal_names_stay_apart(write):
    content = {**two_pictures(), "categories": [{"id": 3, "name": "fish"}, {"id": 7, "name": "fish"}, {"id": 90}]}
    found = read_annotations(write(content))
    assert found.classes == ["fish (3)", "fish (7)", "90"]
    again = read_annotations(write(content), classes=found.classes)
    assert again.category_ids == [3, 7, 90] and again.trainable == [2, 1]


def test_a_groups_only_member_keeps_its_name(write):
    group = [{"id": 0, "name": "cat", "supercategory": "none"}, {"id": 3, "name": "cat", "supercategory": "cat"}]
    content = {**two_pictures(), "categories": [*group, {"id": 7, "name": "dog"}, {"id": 90, "name": "Ba\u0308r"}]}
    assert read_annotations(write(content)).classes == ["cat (0)", "cat", "dog", "B\xe4r"]


def test_ids_as_text_count_as_numbers_do(write):
    ids = ["10", 2, "1", "b", "11"]
    content = {**two_pictures(), "categories": [{"id": one, "name": f"n{one}"} for one in ids]}
    assert read_annotations(write(content)).classes == ["n1", "n2", "n10", "n11", "nb"]


@pytest.mark.parametrize("other", ["a/1.png", "./a/1.png", "a//1.png", "a\\1.png"])
def test_one_picture_twice(write, other):
    content = {**two_pictures(), "images": [image(10, name="a/1.png"), image(11, name=other)]}
    with pytest.raises(UserError, match=r"lists .*1\.png'? .*twice, as ids 10 and 11|lists .* twice, as ids 10 and 11"):
        read_annotations(write(content))


def test_lvis_names_pictures_by_address(write):
    content = two_pictures()
    for one in content["images"]:
        one["coco_url"] = f"http://images.cocodataset.org/train2017/{one.pop('file_name')}"
    assert read_annotations(write(content)).file_names == ["train2017/000000000010.png", "train2017/000000000011.png"]


def test_the_same_file_in_another_list_of_classes(write, capsys):
    say_once.cache_clear()
    found = read_annotations(write(two_pictures()))
    again = relabelled(found, ["fox", "owl", "dog"], "val.json")
    assert again.classes == ["fox", "owl", "dog"] and again.category_ids == [None, 90, 3]
    assert [[item.label for item in picture.annotations] for picture in again.pictures] == [[2, 1], []]
    assert again.trainable == [2, 0] and found.trainable == [2, 1]
    said = capsys.readouterr().err
    assert "val.json lacks 1 of the 3 classes (fox)" in said and "1 annotations are left out" in said and "cat" in said
    assert relabelled(found, found.classes, "val.json") is found
    with pytest.raises(UserError, match="none of the classes fox, hen: it has dog, cat, owl"):
        relabelled(found, ["fox", "hen"], "val.json")


DROPPED = {
    "without area": {"area": 0},
    "with a box below a pixel": {"bbox": [1, 1, 0.5, 9]},
    "with a box outside the image": {"bbox": [64, 0, 9, 9]},
    "of an unknown category": {"category_id": 4},
    "of an image that is not listed": {"image_id": 99},
    "without a mask": {"segmentation": []},
    "with a mask of no pixel in its picture, beyond it": {"segmentation": rectangle(900, 900, 9, 9)},
    "with a mask of no pixel in its picture, in shares": {"segmentation": [[0.1, 0.1, 0.5, 0.1, 0.5, 0.9]]},
    "with a mask of no pixel in its picture, background": {"segmentation": {"size": [48, 64], "counts": [3072]}},
    "with a mask of no pixel in its picture, text": {"segmentation": {"size": [48, 64], "counts": "PP3"}},
    "with a malformed mask": {"segmentation": [[1, 2, 3, 4]]},
    "marked to be ignored": {"ignore": 1},
}


LOST = ("of an", "without a mask", "with a malformed mask", "with a mask")


@pytest.mark.parametrize("reason, change", DROPPED.items(), ids=DROPPED)
def test_dropped_counted_and_said_once(write, capsys, reason, change):
    say_once.cache_clear()
    content = two_pictures()
    content["annotations"].append({**instance(10, 3, 8, 4, 20, 16), **change})
    path = write(content)
    assert sum(read_annotations(path).trainable) == 3
    read_annotations(path)
    said = capsys.readouterr().err.splitlines()
    lost = "not used" if reason.startswith(LOST) else "not trained on, but count in an evaluation as pycocotools has it"
    assert len(said) == 1 and f"1 of 4 annotations are {lost} (1 {reason.split(',')[0]}" in said[0]


def test_crowds_are_kept_for_evaluation_only(write, capsys):
    content = two_pictures()
    content["annotations"][0]["iscrowd"] = 1
    found = read_annotations(write(content))
    assert found.trainable == [1, 1] and len(found.pictures[0].annotations) == 2
    assert "1 of 3 annotations are not trained on" in capsys.readouterr().err
    # Few of them are as COCO has it.
    content["annotations"] += [instance(11, 7, 5, 40, 16, 24)] * 8
    read_annotations(write(content))
    assert capsys.readouterr().err == ""


def test_masks_of_cvat_are_single_objects(write, capsys):
    """It marks what was drawn as a mask 'iscrowd'; a crowd of COCO has no attributes."""
    content, runs = two_pictures(), {"size": [48, 64], "counts": [388, 16, 896, 16, 1756]}
    for item in content["annotations"][:2]:
        item |= {"iscrowd": 1, "segmentation": runs, "attributes": {"occluded": False}}
    content["annotations"][2]["iscrowd"] = 1
    found = read_annotations(write(content))
    assert sum(found.trainable) == 2 and found.untrained == {"marked 'iscrowd'": 1}
    said = capsys.readouterr().err
    assert "2 of 3 annotations are CVAT's masks, all of which it marks 'iscrowd': each is taken for a single" in said


MASKS = {
    "polygon": [[8, 4, 28, 4, 28, 20, 8, 20]],
    "two polygons": [[8, 4, 10, 4, 10, 20, 8, 20], [26, 8, 28, 8, 28, 9, 26, 9]],
    "beyond the image": [[8, 4, 28, 4, 28, 20, 8, 20], [-9, -9, -5, -9, -5, -5]],
    "points": [[8, 4], [28, 4], [28, 20], [8, 20]],
    "one polygon alone": [8, 4, 28, 4, 28, 20, 8, 20],
    "as text": [["8", "4.0", "28", "4", "28", "2e1", "8", "20"]],
    "runs as text": {"size": ["48", 64.0], "counts": ["388", 16, 896, 16.0, "1756"]},
}
BOXES = {"null": None, "empty": [], "short": [8, 4, 20], "NaN": [8, 4, float("nan"), 16], "an object": {"x": 8}}


@pytest.mark.parametrize("box", [*BOXES.values(), "absent"], ids=[*BOXES, "absent"])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_a_box_is_taken_from_the_mask(write, capsys, mask, box):
    say_once.cache_clear()
    content = two_pictures()
    content["annotations"][0] |= {"segmentation": mask, "bbox": box}
    if box == "absent":
        del content["annotations"][0]["bbox"]
    found = read_annotations(write(content))
    assert found.trainable == [2, 1] and found.pictures[0].annotations[0].box == (8, 4, 28, 20)
    said = capsys.readouterr().err
    assert "annotations that are completed from their masks: 1 with" in said and "not used" not in said


def test_a_box_that_is_given_stays(write, capsys):
    content = two_pictures()
    content["annotations"][0]["bbox"] = ["1", 2.0, "30", 4]
    content["annotations"][1]["bbox"] = [0, 0, 0, 9]
    found = read_annotations(write(content))
    assert found.pictures[0].annotations[0].box == (1, 2, 31, 6) and found.trainable == [1, 1]
    assert "1 with a box below a pixel, such as [0, 0, 0, 9] (list)" in capsys.readouterr().err


def test_a_mask_of_no_pixel_has_no_box(write):
    content = two_pictures()
    content["annotations"][0] |= {"segmentation": [[-9, -9, -5, -9, -5, -5]], "bbox": None}
    content["annotations"][1] |= {"segmentation": {"size": [48, 64], "counts": [48 * 64]}, "bbox": None}
    assert read_annotations(write(content)).trainable == [0, 1]


def test_an_area_that_is_none_is_the_mask_s(write, capsys):
    say_once.cache_clear()
    content = two_pictures()
    content["annotations"][0]["area"], content["annotations"][1]["area"] = "large", "720.5"
    found = read_annotations(write(content)).pictures[0].annotations
    assert [one.area for one in found] == [None, 720.5]
    assert "1 with a malformed area, such as 'large' (text)" in capsys.readouterr().err


SIZES = [
    ("1000000000", 1000000000),
    (2_000_000, 3),
    (46_341, 46_341),
    (64, 0),
    (64, None),
    ("", 48),
    (64.5, 48),
    (True, 48),
]


@pytest.mark.parametrize("width, height", SIZES)
def test_sizes_that_no_picture_has(write, width, height):
    content = {"images": [{**image(1), "width": width, "height": height}], "categories": CATEGORIES}
    with pytest.raises(
        UserError, match=r"pixels: expected at most 1000000 a side|whole pixels, but its (height|width) is"
    ):
        read_annotations(write(content))


def test_the_largest_picture_has_masks(write):
    content = {"images": [{**image(1), "width": 1_000_000, "height": 2147}], "categories": CATEGORIES}
    content["annotations"] = [instance(1, 3, 999_990, 2140, 5, 5, bbox=None)]
    found = read_annotations(write(content)).pictures[0].annotations[0]
    assert found.box == (999_990, 2140, 999_995, 2145)


def test_a_mask_with_a_broken_part_is_not_half_used(write, capsys):
    say_once.cache_clear()
    content = two_pictures()
    content["annotations"][0]["segmentation"] += [[1, 2, 3, 4, 5, None]]
    content["annotations"][1]["segmentation"] += [[], [1, 2, 3, 4]]
    assert read_annotations(write(content)).trainable == [1, 1], "less than three points are no area, and no harm"
    assert "1 with a malformed mask, such as nothing" in capsys.readouterr().err


def test_names_of_categories(write):
    names = [{"id": 1, "name": None}, {"id": 2, "name": 5}, {"id": 3, "name": ""}, {"id": "x"}]
    assert read_annotations(write({"images": [image(1)], "categories": names})).classes == ["1", "5", "3", "x"]
    with pytest.raises(UserError, match=r"category of id 1 has the name \['a'\] \(list\): expected text"):
        read_annotations(write({"images": [image(1)], "categories": [{"id": 1, "name": ["a"]}]}))
