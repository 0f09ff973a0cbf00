"""Validation pictures with other classes than the training pictures: matched by name."""

import pytest

from htc_fast import UserError
from htc_fast.errors import say_once
from htc_fast.models import zoo
from htc_fast.training import TrainingRun, trainer
from tests.data.builder import image, instance, write


def files(root, train, val):
    """A folder whose parts have these classes, ids from 1, one instance of each."""
    for split, names in (("train", train), ("val", val)):
        content = {
            "images": [image(1)],
            "annotations": [instance(1, number, 4 * number, 4, 20, 20) for number in range(1, len(names) + 1)],
            "categories": [{"id": number, "name": name} for number, name in enumerate(names, start=1)],
        }
        write(root, content, split)
    return TrainingRun(data=root)


CASES = {
    "another order": (["dog", "cat"], [1, 0], ""),
    "fewer": (["dog"], [1], "lacks 1 of the 2 classes (cat)"),
    "more": (["owl", "cat", "dog"], [0, 1], "there is no class owl here, so 1 annotations are left out"),
    "some": (["owl", "dog"], [1], "lacks 1 of the 2 classes (cat)"),
}


@pytest.mark.parametrize("case", CASES)
def test_validation_counts_in_the_classes_of_training(tmp_path, capsys, case):
    say_once.cache_clear()
    names, labels, said = CASES[case]
    train, val = trainer.make_datasets(files(tmp_path, ["cat", "dog"], names), zoo.config("htc_r50_nosem"))
    assert train.classes == val.classes == ["cat", "dog"]
    assert val.truth(0).labels.tolist() == labels
    assert val.category_ids == [names.index(name) + 1 if name in names else None for name in ("cat", "dog")]
    err = capsys.readouterr().err
    assert said in err if said else err == ""


def test_no_class_in_common(tmp_path):
    with pytest.raises(UserError, match=r"has none of the classes cat, dog: it has Cat, cow .is 'cat' the same as its"):
        trainer.make_datasets(files(tmp_path, ["cat", "dog"], ["Cat", "cow"]), zoo.config("htc_r50_nosem"))
