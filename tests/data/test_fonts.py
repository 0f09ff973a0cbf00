"""Class names in any script: written in a font that has them, or as class numbers, never as empty squares."""

import os

import numpy as np
import pytest
from matplotlib import font_manager, get_data_path
from PIL import ImageFont

from htc_fast import UserError
from htc_fast.data import fonts
from htc_fast.data.draw import draw
from htc_fast.data.fonts import Lettering, open_font, readable
from htc_fast.errors import say_once
from tests.data.test_draw import four

FOLDER = os.path.join(get_data_path(), "fonts", "ttf")
DEJAVU, STIX = os.path.join(FOLDER, "DejaVuSans.ttf"), os.path.join(FOLDER, "STIXGeneral.ttf")
CAT = "\u732b"  # in Chinese


@pytest.fixture(autouse=True)
def no_fonts_of_this_system(monkeypatch):
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda *_, **__: [])
    fonts._faces.cache_clear()
    say_once.cache_clear()
    yield
    fonts._faces.cache_clear()


def drawn(name, **options):
    instances = four()
    instances.class_names = [name, "b", "c"]
    return np.asarray(draw(np.full((30, 120, 3), 128, np.uint8), instances, scores=False, **options))


def test_ascii_is_written_in_pillows_own_font():
    lettering = Lettering(["person", "traffic light"])
    [piece] = lettering.pieces("traffic light 90%", 20)
    assert (piece.text, piece.x, piece.y) == ("traffic light 90%", 0, 0)
    assert piece.font.getname() == ImageFont.load_default(20).getname() and len(lettering.faces) == 1


@pytest.mark.parametrize("name", ["Bär", "кошка", "Ελλάδα", "قطة", "naïve café", "☃ snow"])
def test_wider_alphabets(name, capsys):
    lettering = Lettering(["a", name])
    assert lettering.name(name, 1) == name and not capsys.readouterr().err
    [piece] = lettering.pieces(f"{name} 90%", 20)
    assert piece.font.getname()[0] == "DejaVu Sans" and piece.text == f"{name} 90%"
    assert not np.array_equal(drawn(name), drawn("".join("a" if char != " " else " " for char in name)))


def test_what_no_font_has_is_the_class_number_and_said_once(capsys):
    names = ["person", CAT, f"cat {CAT}", "cat \U0001f9ec", "\U0001f9ec", ""]
    lettering = Lettering(names)
    written = [lettering.name(name, label) for label, name in enumerate(names)]
    assert written == ["person", "class 2", "class 3", "cat", "class 5", "class 6"]
    Lettering(names)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "some characters of the class names (U+732B, U+1F9EC)" in said and "--font" in said
    assert said.isascii(), "a terminal without these letters has to show it"
    assert np.array_equal(drawn(CAT), drawn("class 1"))


def test_fonts_of_the_system_follow(monkeypatch, capsys):
    rare = sorted(open_font(STIX).characters - open_font(DEJAVU).characters)[5]
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda *_, **__: [os.path.join(FOLDER, "cmr10.ttf"), STIX])
    lettering = Lettering([f"a{rare}\u0642"])
    assert not capsys.readouterr().err and lettering.missing == frozenset()
    first, second, third = lettering.pieces(f"a{rare}\u0642", 20)
    assert [piece.font.getname()[0] for piece in (second, third)] == ["STIXGeneral", "DejaVu Sans"]
    assert 0 == first.x < second.x < third.x and third.x == pytest.approx(
        second.x + second.font.getlength(rare), abs=1e-6
    )


def test_a_font_of_ones_own():
    lettering = Lettering(["cat", "B\u00e4r"], DEJAVU)
    assert [piece.font.getname()[0] for piece in lettering.pieces("cat", 20)] == ["DejaVu Sans"]
    assert not np.array_equal(drawn("cat", font=DEJAVU), drawn("cat"))


def test_bad_fonts(tmp_path):
    (tmp_path / "a.ttf").write_text("hello")
    for font, sentence in (
        (tmp_path / "no.ttf", "is missing"),
        (tmp_path / "a.ttf", "cannot be used"),
        (tmp_path, "is a folder"),
    ):
        with pytest.raises(UserError, match=sentence):
            drawn("a", font=font)


READABLE = {
    "x\ny\tz": "x y z",
    "  a  b ": "a b",
    "a\u0308": "\u00e4",
    "a\x07b": "a\\x07b",
    "\ud800": "\\ud800",
    "\u202eabc\u200d": "abc",
    "\u2764\ufe0f": "\u2764",
    "n" * 300: "n" * 57 + "...",
}


@pytest.mark.parametrize("name, want", READABLE.items(), ids=map(ascii, range(len(READABLE))))
def test_names_on_one_line(name, want):
    assert readable(name) == want


def test_a_name_is_no_wider_than_its_picture():
    wide = drawn("m" * 40)
    assert wide.shape == (30, 120, 3) and not np.array_equal(wide, drawn("m" * 3))
    background = np.asarray(wide[0]) == 128
    assert background.all(axis=-1).any(), "no label covers a whole row"
