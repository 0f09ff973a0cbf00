"""Sentences stay short and whole, whatever value or list they show."""

import numpy as np
import pytest
import torch

from htc_fast import UserError
from htc_fast.data.annotations import read_annotations
from htc_fast.data.pictures import image_limits
from htc_fast.device import find_device
from htc_fast.errors import brief, check_count, check_number, check_score, check_sides, choose, few, short, shown
from htc_fast.models.weights.rows import check_order
from tests.data.builder import two_pictures, write

HUGE = 10**5000  # more digits than Python writes
CLASSES = [f"class {number}" for number in range(1203)]


def nested(kind):
    value = kind()
    for _ in range(5000):
        value = kind([value])
    return value


def test_values_are_shown_on_one_line():
    assert short("a\nb") == "'a\\nb'" and short(np.zeros((2, 2))) == "array([[0., 0.], [0., 0.]])"
    assert short((1, 2.5, "x", None)) == "(1, 2.5, 'x', None)" and short({"b": 1}) == "{'b': 1}"
    assert short(list(range(1000))) == "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 1…"
    assert short("x" * 9000) == "'" + "x" * 59 + "…" and short(10**100) == "1" + "0" * 59 + "…"
    assert short(nested(list)) == "[[[[...]]]]" and short(nested(tuple)) == "((((...),),),)"
    assert shown(HUGE) == "a value too long to show (int)" and shown([HUGE]) == "a value too long to show (list)"


def test_lists_are_quoted_alike():
    assert few([]) == "" and few("abc") == "a, b, c" and few("abcde") == "a, b, c, d, e"
    assert few(CLASSES) == "class 0, class 1, class 2, class 3, class 4 and 1198 more"
    assert few(CLASSES, most=2) == "class 0, class 1 and 1201 more"
    assert brief("a b.jpg") == "a b.jpg" and brief("a\nb") == "'a\\nb'" and len(few(["x" * 22_000])) == 61


def test_a_thousand_classes_are_a_short_sentence(tmp_path):
    categories = [{"id": number + 1, "name": name} for number, name in enumerate(CLASSES)]
    write(tmp_path, {**two_pictures(), "categories": categories})
    path = next(tmp_path.glob("annotations/*.json"))
    with pytest.raises(UserError, match=r"has no category 'cat': it has class 0, .* and 1198 more") as caught:
        read_annotations(path, ["cat"])
    assert len(str(caught.value)) < 400
    with pytest.raises(UserError, match=r"'class 1' in another place than the model, .* and 1198 more: leave"):
        check_order(CLASSES[1:], CLASSES)


WRONG = [0, -1, 2**31, HUGE, -HUGE, 1.0, True, None, "2", torch.ones(2), np.float32(1)]


@pytest.mark.parametrize("bad", WRONG, ids=range(len(WRONG)))
def test_what_is_no_count(bad):
    with pytest.raises(
        UserError, match=r"^n takes a whole number (of at least 1|from 1 to 2147483647), got "
    ) as caught:
        check_count("n", bad)
    assert len(str(caught.value)) < 200


def test_counts_scores_and_numbers():
    assert check_count("n", np.int64(3)) == 3 and check_count("n", torch.tensor(3)) == 3 and check_count("n", 0, 0) == 0
    with pytest.raises(
        UserError, match=r"^n takes a whole number from 1 to 5, got a value too long to show \(int\)\.$"
    ):
        check_count("n", HUGE, most=5)
    assert check_score("s", np.float32(0.5)) == 0.5 and check_score("s", 1) == 1.0
    for bad in (HUGE, -HUGE, float("nan"), True, "0.5", None, 1j):
        with pytest.raises(UserError, match=r"^s takes a number from 0 to 1, got "):
            check_score("s", bad)
    assert check_number("n", 0.5) == 0.5 and check_number("n", 0, zero=True) == 0
    for bad in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UserError, match=r"^n takes a finite number above 0, got "):
            check_number("n", bad)
    with pytest.raises(UserError, match=r"^n takes a finite number of at least 0, got -1"):
        check_number("n", -1, zero=True)


def test_sides():
    assert check_sides("s", [64, 96.0]) == check_sides("s", np.array([64, 96])) == (64, 96)
    assert check_sides("s", (96, 64), "height, width", ordered=False) == (96, 64)
    for bad in ((96, 64), (64, HUGE), (HUGE, HUGE), (31, 64), (64, 65_537), "64", {64, 96}, None, 64, (True, 64)):
        with pytest.raises(UserError, match=r"^s takes two sides of 32 to 65536 pixels "):
            check_sides("s", bad)
    assert image_limits([800]) == (800, 1333) and image_limits((65_536,)) == (65_536, 65_536)
    for bad in ([31], [HUGE], [65_537], [], [64, 32], [1, 2, 3]):
        with pytest.raises(UserError, match=r"^--image-size takes "):
            image_limits(bad)


def test_names_that_are_none():
    for bad in (HUGE, 10**30, -(10**30), nested(list)):
        with pytest.raises(UserError, match=r"^unknown fruit .*: choose one of apple\.$"):
            choose(bad, ["apple"], "fruit")
        with pytest.raises(UserError, match=r"^device .* cannot be used .*: choose cpu, cuda or cuda:N\.$"):
            find_device(bad)
