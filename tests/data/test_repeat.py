"""Repeat factors: pictures of rare classes come more often, as LVIS has it."""

import math

import pytest

from htc_fast.data import CocoDataset
from htc_fast.data.repeat import factors, repeat_factors
from htc_fast.errors import say_once
from tests.data.builder import CATEGORIES, image, instance, write


def test_the_rarest_class_of_a_picture_decides():
    # Of 8 pictures, 6 have class 0, 2 class 1, 1 class 2.
    labels = [{0}, {0}, {0}, {0}, {0, 1}, {0, 1, 2}, set(), set()]
    assert factors(labels, 0.5) == pytest.approx([1, 1, 1, 1, math.sqrt(2), 2, 1, 1])
    assert factors(labels, 1.0) == pytest.approx([*[math.sqrt(8 / 6)] * 4, 2, math.sqrt(8), 1, 1])
    assert factors(labels, 0.125) == [1.0] * 8 and factors([], 0.5) == []


def test_of_a_data_set(tmp_path, capsys):
    content = {"images": [image(n) for n in range(1, 6)], "categories": CATEGORIES}
    content["annotations"] = [instance(n, 7, 2, 2, 9, 9) for n in (1, 2, 3, 4)]
    content["annotations"] += [instance(2, 90, 20, 2, 9, 9), instance(2, 90, 30, 2, 9, 9)]
    # A crowd teaches nothing of its class.
    content["annotations"].append(instance(3, 90, 0, 0, 40, 40, iscrowd=1))
    root = write(tmp_path, content, "train")
    # Picture 5 has nothing to train on.
    assert repeat_factors(CocoDataset(root, "train"), 0.64) == pytest.approx([1, 1.6, 1, 1])
    assert repeat_factors(CocoDataset(root, "train", keep_empty=True), 0.8) == pytest.approx([1, 2, 1, 1, 1])
    say_once.cache_clear()
    repeat_factors(CocoDataset(root, "train", keep_empty=True), 0.8)
    said = "1 of 5 pictures come more often, which makes an epoch 1.2 times as long (--repeat 0.8)."
    assert said in capsys.readouterr().err
    assert repeat_factors(CocoDataset(root, "train"), 0.25) == [1.0] * 4
    assert "no class is in less than a share of 0.25 of the pictures, so none is repeated" in capsys.readouterr().err
