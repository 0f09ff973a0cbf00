"""Which listed picture a file is: by the longest end of its path, and never one of two."""

from pathlib import Path

import pytest

from htc_fast.data.listed import find_listed, fresh_ids
from htc_fast.errors import UserError

LISTED = ["a/1.png", "b/1.png", "2.png", "deep\\er\\3.png", "./4.PNG", "B\u00e4r.png"]
# file -> index into LISTED, and whether that is by part of the path only
CASES = {
    "im/a/1.png": (0, False),
    "im/b/1.png": (1, False),
    "im/2.png": (2, False),
    "im/a/2.png": (2, False),
    "im/deep/er/3.png": (3, False),
    "er/3.png": (3, True),
    "4.PNG": (4, False),
    "im/4.png": (4, True),
    "IM/A/1.png": (0, True),
    "Ba\u0308r.png": (5, True),
    "5.png": (None, False),
    "1.png.png": (None, False),
}


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    """A folder whose name no listed path has."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("path", CASES)
def test_a_file(path):
    place, roughly = CASES[path]
    found = find_listed([Path(path)], LISTED, "f.json")
    assert found.places == [place] and found.roughly == ([0] if roughly else [])


def test_the_better_end_wins():
    found = find_listed([Path("im/x/1.png"), Path("im/a/1.png"), Path("im/b/1.png")], ["a/1.png", "b/1.png"], "f.json")
    assert found.places == [None, 0, 1] and found.roughly == []
    found = find_listed([Path("x/a/1.jpg"), Path("x/1.jpg")], ["1.jpg", "a/1.jpg"], "f.json")
    assert found.places == [1, 0]
    found = find_listed([Path("1.JPG"), Path("1.jpg")], ["1.jpg"], "f.json")
    assert found.places == [None, 0] and found.roughly == []
    found = find_listed([Path("1.JPG"), Path("1.jpg")], ["1.jpg", "1.JPG"], "f.json")
    assert found.places == [1, 0]
    found = find_listed([Path("y/a/1.png"), Path("y/1.png")], ["x/a/1.png"], "f.json")
    assert found.places == [0, None] and found.roughly == [0]


def test_where_folders_hold_others_are_unlisted():
    found = find_listed([Path("im/a/1.png"), Path("im/c/1.png")], ["a/1.png", "d/1.png"], "f.json")
    assert found.places == [0, None] and found.roughly == []
    found = find_listed([Path("im/a/1.png"), Path("im/c/1.png")], ["a/1.png", "d/1.png", "e/1.png"], "f.json")
    assert found.places == [0, None]


AMBIGUOUS = {
    "two listed": (["1.png"], ["a/1.png", "b/1.png"], r"1.png may be a/1.png or b/1.png of f.json"),
    "listed twice": (["a/1.png"], ["a/1.png", "a\\1.png"], "a/1.png may be a/1.png or a\\1.png of f.json"),
    "copies": (["x/1.png", "y/1.png"], ["1.png"], "x/1.png and y/1.png may both be 1.png of f.json"),
    "copies elsewhere": (["x/1.png", "y/1.png"], ["z/1.png"], "x/1.png and y/1.png may both be z/1.png of f.json"),
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_what_may_be_two_is_refused(case):
    sources, listed, sentence = AMBIGUOUS[case]
    with pytest.raises(UserError) as error:
        find_listed([Path(one) for one in sources], listed, "f.json")
    assert sentence in str(error.value)


def test_many_pictures_of_one_name():
    listed = [f"{number}/image.png" for number in range(20_000)]
    found = find_listed([Path("root") / one for one in reversed(listed)], listed, "f.json")
    assert found.places == list(reversed(range(20_000)))


def test_fresh_ids():
    numbers = [Path("000012.jpg"), Path("x/7.png")]
    assert fresh_ids(numbers) == [12, 7]
    assert fresh_ids(numbers, [1, 2, "7"]) == [12, 7]
    assert fresh_ids(numbers, [3, 7]) == [8, 9]
    assert fresh_ids([Path("a/1.png"), Path("b/1.png")]) == [1, 2]
    assert fresh_ids([Path("a.png")], [-5]) == [1] and fresh_ids([Path("a.png")], ["x"]) == [1]
