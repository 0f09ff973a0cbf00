"""Annotation files: what is read, what is dropped and said, what is an error."""

import json

import pytest

from htc_fast import UserError
from htc_fast.data.annotations import read_annotations, say_once
from htc_fast.data.classes import relabelled
from tests.data.builder import CATEGORIES, image, instance, two_pictures


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
    "without area, thin": {"bbox": [1, 1, 0.5, 9]},
    "outside the image": {"bbox": [64, 0, 9, 9]},
    "of an unknown category": {"category_id": 4},
    "of an image that is not listed": {"image_id": 99},
    "without a mask": {"segmentation": []},
    "with a malformed mask": {"segmentation": [[1, 2, 3, 4]]},
    "marked to be ignored": {"ignore": 1},
}


@pytest.mark.parametrize("reason, change", DROPPED.items(), ids=DROPPED)
def test_dropped_counted_and_said_once(write, capsys, reason, change):
    say_once.cache_clear()
    content = two_pictures()
    content["annotations"].append({**instance(10, 3, 8, 4, 20, 16), **change})
    path = write(content)
    assert sum(read_annotations(path).trainable) == 3
    read_annotations(path)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "1 of 4 annotations are not used" in said[0] and f"1 {reason.split(',')[0]}" in said[0]


def test_crowds_are_kept_for_evaluation_only(write, capsys):
    content = two_pictures()
    content["annotations"][0]["iscrowd"] = 1
    found = read_annotations(write(content))
    assert found.trainable == [1, 1] and len(found.pictures[0].annotations) == 2
    assert capsys.readouterr().err == ""
