"""Fonts that can write class names in any script: Pillow's own for ASCII, then matplotlib's, then the system's.

What no font has becomes the number of the class instead of empty squares, and is said once.
"""

import functools
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import ImageFont

from htc_fast.data.classes import numbered
from htc_fast.errors import UserError, few, say_once

ASCII = frozenset(map(chr, range(32, 127)))
LONGEST = 60  # characters of a name
# Regular upright letters first; some fonts claim every character and draw none.
STYLES = ("bold", "italic", "oblique", "mono", "serif", "condensed", "light", "math", "display")
EMPTY = ("lastresort", "blank")


@dataclass(frozen=True)
class Face:
    """A font and what it can write; path None: Pillow's own."""

    path: str | None
    characters: frozenset[str]

    def at(self, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
        return ImageFont.load_default(size) if self.path is None else ImageFont.truetype(self.path, size)


OWN = Face(None, ASCII)


@dataclass(frozen=True)
class Piece:
    """Text in one font, at an offset in pixels from where the whole begins."""

    text: str
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont
    x: float = 0
    y: float = 0


class Lettering:
    """How the names of some classes are written.

    names   of all classes, so that one search finds a font for each
    font    file to prefer; None: Pillow's
    raises  UserError if it is no font
    """

    def __init__(self, names: Sequence[str], font: str | Path | None = None):
        wanted = frozenset("".join(map(readable, names)))
        self.faces, self.missing = _faces(None if font is None else os.fspath(font), wanted)

    def name(self, name: str, label: int) -> str:
        """A name as it can be written: without what has no letters, or else its class number."""
        text = readable(name)
        if any(char in self.missing and unicodedata.category(char)[0] in "LNM" for char in text):
            return numbered(label)
        return "".join(char for char in text if char not in self.missing).strip() or numbered(label)

    def pieces(self, text: str, size: int) -> list[Piece]:
        """Text in one font where one has all of it, else in pieces on one line."""
        for face in self.faces:
            if face.characters.issuperset(text):
                return [Piece(text, face.at(size))]
        runs: list[tuple[Face, str]] = []
        for char in text:
            face = next(
                (face for face in (*(run[0] for run in runs[-1:]), *self.faces) if char in face.characters), OWN
            )
            if runs and runs[-1][0] is face:
                runs[-1] = face, runs[-1][1] + char
            else:
                runs.append((face, char))
        pieces: list[Piece] = []
        x = 0.0
        for face, part in runs:
            font = face.at(size)
            # Baselines meet: Pillow places text by its ascender.
            y = _ascent(pieces[0].font) - _ascent(font) if pieces else 0
            pieces.append(Piece(part, font, x, y))
            x += font.getlength(part)
        return pieces


def readable(name: str) -> str:
    """A name on one line: composed, control characters escaped, invisible ones left out, and not too long."""
    text = unicodedata.normalize("NFC", " ".join(str(name).split()))
    chars = []
    for char in text:
        kind = unicodedata.category(char)
        if kind in ("Cc", "Cs"):
            chars.append(char.encode("unicode_escape").decode())
        # Marks of direction, joiners, and variants of emoji.
        elif kind != "Cf" and not 0xFE00 <= ord(char) <= 0xFE0F:
            chars.append(char)
    text = "".join(chars)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


@functools.lru_cache(maxsize=64)
def _faces(font: str | None, wanted: frozenset[str]) -> tuple[tuple[Face, ...], frozenset[str]]:
    """The fonts to choose from, and which characters none of them has."""
    faces = [OWN] if font is None else [open_font(font), OWN]
    left = wanted - frozenset().union(*(face.characters for face in faces))
    for path in _others() if left else ():
        try:
            face = open_font(path)
        except UserError:
            continue
        if face.characters & left:
            faces.append(face)
            left -= face.characters
        if not left:
            break
    if left:
        codes = few(f"U+{ord(char):04X}" for char in sorted(left))
        say_once(
            f"no font here has some characters of the class names ({codes}), so these names are drawn as class "
            "numbers: give a font that has them (predict --font FILE; in Python font=)."
        )
    return tuple(faces), left


def open_font(path: str | Path) -> Face:
    """A font file, with what it can write.

    raises  UserError if it is none, or has one size only
    """
    from matplotlib.ft2font import FT2Font  # half a second, for names beyond ASCII alone

    if not os.path.isfile(path):
        what = "a folder" if os.path.isdir(path) else "missing"
        raise UserError(f"font {path} is {what}: expected a .ttf, .otf or .ttc file.")
    try:
        ImageFont.truetype(path, 20).getlength("a")
        return Face(str(path), frozenset(map(chr, FT2Font(str(path)).get_charmap())))
    # FreeType's errors have no class of their own.
    except Exception as error:
        raise UserError(f"font {path} cannot be used ({error}): expected a scalable .ttf, .otf or .ttc file.") from None


def _others() -> list[str]:
    """DejaVu Sans, which matplotlib brings, and the system's fonts."""
    from matplotlib import font_manager, get_data_path

    def rank(path: str) -> tuple[int, str]:
        return sum(style in os.path.basename(path).lower() for style in STYLES), path

    found = [path for path in font_manager.findSystemFonts() if not any(one in path.lower() for one in EMPTY)]
    return [os.path.join(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), *sorted(found, key=rank)]


def _ascent(font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    return font.getmetrics()[0] if isinstance(font, ImageFont.FreeTypeFont) else 0
