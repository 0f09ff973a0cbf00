"""AP where the model's classes are not the data set's: matched by name, and said."""

from dataclasses import replace

import pytest
import torch

from htc_fast import UserError
from htc_fast.data import CocoDataset
from htc_fast.data.instances import Instances
from htc_fast.errors import say_once
from htc_fast.evaluation import coco
from tests.data.builder import CATEGORIES, image, instance, write
from tests.inference.fake import Fake


@pytest.fixture
def dataset(tmp_path):
    """One picture: a cat (id 7) in its middle half, a dog (id 3) in its corner; the owl's class (id 90) is empty."""
    say_once.cache_clear()
    annotations = [instance(1, 7, 16, 12, 32, 24), instance(1, 3, 0, 0, 32, 24)]
    content = {"images": [image(1)], "annotations": annotations, "categories": CATEGORIES}
    return CocoDataset(write(tmp_path, content), "val", semantic="none", keep_empty=True)


def fake(*names):
    """Finds its second class in the middle (0.9) and its first in the corner (0.4, half of the mask)."""
    model = Fake(len(names))
    model.config = replace(model.config, class_names=names)
    return model


@pytest.mark.parametrize("names", [("dog", "cat", "owl"), ("dog", "cat"), ("dog", "cat", "cow", "owl")])
def test_a_cat_is_a_cat_in_any_order(dataset, names):
    found = coco.collect(fake(*names), dataset, size=(48, 64), progress=False)
    scores = coco.score(dataset, found)
    assert list(scores.per_class) == list(names)
    assert scores.per_class["cat"]["box_AP"] == scores.per_class["dog"]["box_AP"] == pytest.approx(1)
    assert {scores.per_class[name]["box_AP"] for name in names[2:]} <= {-1}
    assert scores.metrics["box_AP"] == pytest.approx(1), "classes without truth do not count"
    assert [item["category_id"] for item in coco.results(dataset, found)[0]] == [7, 3]


def test_wrong_names_are_wrong(dataset):
    found = coco.collect(fake("cat", "dog", "owl"), dataset, size=(48, 64), progress=False)
    assert coco.score(dataset, found).metrics["box_AP50"] == 0
    assert [item["category_id"] for item in coco.results(dataset, found)[0]] == [3, 7]


def test_what_the_data_lacks_is_said_and_has_no_results(dataset, capsys):
    model = fake("Dog", "cat")
    metrics = coco.evaluate(model, dataset, size=(48, 64), progress=False)
    said = capsys.readouterr().err
    assert metrics["box_AP"] == pytest.approx(1)
    assert "lacks 1 of the 2 classes (Dog) (is 'Dog' the same as its 'dog'?" in said
    assert "no class dog, owl here, so 1 annotations are left out" in said
    boxes, masks = coco.results(dataset, coco.collect(model, dataset, size=(48, 64), progress=False))
    assert [item["category_id"] for item in boxes] == [item["category_id"] for item in masks] == [7]


def test_none_in_common(dataset):
    with pytest.raises(UserError, match="has none of the classes cow, horse"):
        coco.evaluate(fake("cow", "horse"), dataset, progress=False)


def test_weights_without_names(dataset, capsys):
    assert coco.evaluate(Fake(3), dataset, size=(48, 64), progress=False)["box_AP"] == pytest.approx(1)
    assert "taken for those of instances_val2017.json in its order (dog, cat, owl)" in capsys.readouterr().err
    # Of 80 classes without names, the second is COCO's bicycle.
    assert coco.evaluate(Fake(80), dataset, size=(48, 64), progress=False)["box_AP"] == 0


def of(dataset, label, names=()):
    rle = dataset.truth(0).rle[:1]
    return Instances(torch.tensor([[16.0, 12, 48, 36]]), torch.ones(1), torch.tensor([label]), rle, (48, 64), names)


def test_predictions_of_somebody_else(dataset):
    assert coco.score(dataset, {0: of(dataset, 1)}).per_class["cat"]["box_AP"] == pytest.approx(1)
    assert coco.score(dataset, {0: of(dataset, 0, ["cat"])}).per_class == {
        "cat": {"box_AP": pytest.approx(1), "box_AP50": pytest.approx(1), "mask_AP": pytest.approx(1),
                "mask_AP50": pytest.approx(1)}
    }  # fmt: skip
    with pytest.raises(UserError, match="label 3, but there are 3 classes"):
        coco.score(dataset, {0: of(dataset, 3)})
    with pytest.raises(UserError, match="different class names"):
        coco.score(dataset, {0: of(dataset, 0, ["cat"]), 1: of(dataset, 0, ["dog"])})


def test_a_label_without_an_id_is_a_sentence(dataset):
    with pytest.raises(UserError, match="label 1 has no id: got 1 category_ids"):
        of(dataset, 1).to_coco(1, [5])
    assert of(dataset, 1).to_coco(1, [5, None]) == []
    assert of(dataset, -1, ["cat"]).name(0) == "label -1"


WRONG = {
    "size": ({"size": 64}, r"size takes two sides of 32 to 65536 pixels.*got 64 \(int\)"),
    "size of text": ({"size": "64"}, r"size takes two sides.*got '64' \(str\)"),
    "size of three": ({"size": (1, 2, 3)}, "size takes two sides"),
    "batch size": ({"batch_size": 0}, "batch_size takes a whole number of at least 1, got 0"),
    "batch size of text": ({"batch_size": "2"}, r"batch_size takes a whole number of at least 1, got '2' \(str\)"),
    "workers": ({"workers": -1}, "workers takes a whole number of at least 0, got -1"),
    "limit": ({"limit": 0}, "limit takes a whole number of at least 1, got 0"),
    "max_detections": ({"max_detections": 0}, "max_detections takes a whole number from 1 to 10000, got 0"),
    "max_detections of text": ({"max_detections": "many"}, r"max_detections takes.*got 'many' \(str\)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_options(dataset, case):
    options, sentence = WRONG[case]
    with pytest.raises(UserError, match=sentence):
        coco.evaluate(Fake(3), dataset, **{"progress": False, **options})


def test_wrong_arguments(dataset):
    with pytest.raises(UserError, match=r"dataset must be a CocoDataset.*got 'coco' \(str\)"):
        coco.evaluate(Fake(3), "coco")
    with pytest.raises(UserError, match=r"model must be a detector.*got 'w.pth' \(str\)"):
        coco.evaluate("w.pth", dataset)
    with pytest.raises(UserError, match=r"score_threshold takes a number from 0 to 1, got nan \(float\)"):
        coco.collect(Fake(3), dataset, score_threshold=float("nan"), progress=False)
