"""Lists of classes: matched by name, or said why not."""

from dataclasses import replace

import pytest

from htc_fast import UserError
from htc_fast.data import CocoDataset
from htc_fast.data.classes import check_names, classes_of, default_classes, names_for, near_misses, shared_labels
from htc_fast.errors import say_once
from htc_fast.models.config import Model
from tests.data.builder import write

COCO_NAMES, COCO_IDS = default_classes(80)


@pytest.fixture
def dataset(tmp_path):
    """dog 3, cat 7, owl 90, one instance each."""
    say_once.cache_clear()
    return CocoDataset(write(tmp_path), "val", semantic="none")


def test_a_model_s_own_classes():
    assert classes_of(Model("m", num_classes=2)) == (["class 1", "class 2"], [1, 2])
    assert classes_of(Model("m")) == (list(COCO_NAMES), list(COCO_IDS))
    own = Model("m", num_classes=2, class_names=("cat", "dog"), category_ids=(5, 3))
    assert classes_of(own) == (("cat", "dog"), (5, 3))
    assert list(classes_of(replace(own, category_ids=()))[1]) == [1, 2]
    # Eighty classes of somebody's own have not COCO's ids, COCO's in another order have theirs.
    mine = Model("m", class_names=tuple(f"part {i}" for i in range(80)))
    assert list(classes_of(mine)[1]) == list(range(1, 81))
    turned = Model("m", class_names=tuple(reversed(COCO_NAMES)))
    assert list(classes_of(turned)[1]) == list(reversed(COCO_IDS))


def test_names_to_look_for(dataset):
    found = dataset.annotations
    assert names_for(Model("m", num_classes=2, class_names=("a", "b")), found, "f.json") == ["a", "b"]
    assert names_for(Model("m", num_classes=3), found, "f.json") == ["dog", "cat", "owl"]
    assert names_for(Model("m"), found, "f.json") == list(COCO_NAMES)
    with pytest.raises(UserError, match=r"has 4 classes, none with a name, and f.json has 3 \(dog, cat, owl\)"):
        names_for(Model("m", num_classes=4), found, "f.json")
    with pytest.raises(UserError, match=r"has 80 classes, none with a name, and f.json has 3"):
        names_for(Model("m"), replace(found, classes=["Hund", "Katze", "Eule"]), "f.json")
    # Eighty classes that are not COCO's, or not as COCO calls them, can only be taken in their order.
    darknet = ["aeroplane" if name == "airplane" else name for name in COCO_NAMES]
    assert names_for(Model("m"), replace(found, classes=darknet), "f.json") == darknet
    assert names_for(Model("m"), replace(found, classes=sorted(darknet)), "f.json") == list(COCO_NAMES)


def test_shared_labels(dataset):
    assert shared_labels(dataset.annotations, ["owl", "fox", "dog"], "f.json") == {0: 2, 2: 0}
    with pytest.raises(UserError, match=r"f.json has none of the classes fox: it has dog, cat, owl; choose"):
        shared_labels(dataset.annotations, ["fox"], "f.json")
    with pytest.raises(UserError, match="two classes are called 'owl'"):
        shared_labels(dataset.annotations, ["owl", "dog", "owl"], "f.json")


ALIKE = [("Cat", "cat"), ("traffic_light", "traffic light"), ("hair-drier", "Hair Drier"), ("Ba\u0308r", "B\u00e4r")]


@pytest.mark.parametrize("ours, theirs", ALIKE)
def test_names_that_look_alike_are_hinted_at(ours, theirs):
    assert near_misses(["fox", ours], ["owl", theirs]) == (
        f" (is {ours!r} the same as its {theirs!r}? then call them alike)"
    )


def test_names_that_do_not_look_alike():
    assert near_misses(["cat", "+", "猫"], ["cat", "-", "犬"]) == ""


def test_both_sides_are_said(dataset, capsys):
    other = dataset.relabelled(["Cat", "owl"])
    said = capsys.readouterr().err
    assert "lacks 1 of the 2 classes (Cat) (is 'Cat' the same as its 'cat'?" in said
    assert "there is no class dog, cat here, so 2 annotations are left out" in said
    assert other.category_ids == [None, 90] and other.classes == ["Cat", "owl"]
    assert [[item.label for item in picture.annotations] for picture in other.pictures] == [[1], []]


def test_names_given_by_hand():
    config = Model("m", num_classes=2, class_names=("cat", "dog"))
    assert check_names(["Katze", "Hund"], config) == ["Katze", "Hund"]
    assert check_names(("cat", "Hund"), config) == ["cat", "Hund"]
    for names, sentence in (
        (["dog", "cat"], "puts 'dog' in another place than the model, whose classes are cat, dog"),
        (["cat"], "must name 2 classes, as the model has, got 1"),
        ("cat", r"takes a list of names, got 'cat' \(str\)"),
        ([1, 2], "takes a list of names"),
        ({"cat": 1, "dog": 2}, "takes a list of names"),
    ):
        with pytest.raises(UserError, match=sentence):
            check_names(names, config)
