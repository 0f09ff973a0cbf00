"""One HTML file with all that it shows inside: text, tables, SVG drawings, JPEG pictures; no script, no network."""

import base64
import html
import io
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

STYLE = """
:root { color-scheme: light; --ink: #1b2733; --pale: #5d6b79; --line: #dde3e9; --ground: #f4f6f8; --accent: #1f6feb; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; margin: 0 0 4px; overflow-wrap: anywhere; } h2 { font-size: 19px; margin: 0 0 12px; }
p { margin: 6px 0; max-width: 80ch; overflow-wrap: anywhere; } p.about, figcaption { color: var(--pale); }
section { background: white; border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px; margin: 18px 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 12px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--pale); font-weight: 600; } th:first-child, td:first-child { text-align: left; }
figure { margin: 0; } figure svg, figure img { max-width: 100%; height: auto; border-radius: 6px; display: block; }
figcaption { font-size: 13px; margin-top: 4px; overflow-wrap: anywhere; }
.grid { display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(min(var(--least), 100%), 1fr)); }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin-top: 14px; }
.card { background: white; border: 1px solid var(--line); border-radius: 10px; padding: 10px 16px; }
h3 { font-size: 16px; margin: 22px 0 4px; } .tall { max-height: 640px; overflow: auto; }
.tall thead { position: sticky; top: 0; background: white; }
.row { display: flex; flex-wrap: wrap; gap: 16px 48px; align-items: flex-end; } .row > * { max-width: 100%; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 8px 0; font-size: 13px; overflow-wrap: anywhere; }
.legend i { display: inline-block; width: 22px; height: 4px; border-radius: 2px; margin-right: 6px; }
.legend i { vertical-align: middle; }
th.group { text-align: center; color: var(--ink); border-left: 12px solid white; } th.group:empty { border: 0; }
table.heat th, table.heat td { text-align: center; padding: 4px 7px; border: 1px solid white; min-width: 34px; }
table.heat th { font-weight: 500; max-width: 190px; overflow: hidden; text-overflow: ellipsis; }
table.heat thead th { writing-mode: vertical-rl; rotate: 180deg; text-align: left; max-height: 150px; }
table.heat tbody th { text-align: right; } table.heat td { background: var(--ground); }
table.heat td.corner { background: none; color: var(--pale); font-size: 13px; vertical-align: bottom; }
.card b { display: block; font-size: 22px; } .card span { color: var(--pale); font-size: 13px; }
"""


class Page:
    """A page that grows from top to bottom.

    title  of the window and the first line
    about  a sentence under it
    """

    def __init__(self, title: str, about: str = ""):
        self.title = title
        self.parts = [f"<h1>{escape(title)}</h1>"]
        if about:
            self.parts.append(f'<p class="about">{escape(about)}</p>')

    def cards(self, numbers: Iterable[tuple[str, Any]]) -> None:
        """The few numbers that matter most, large: (what it is, value)."""
        shown = "".join(
            f'<div class="card"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for name, value in numbers
        )
        self.parts.append(f'<div class="cards">{shown}</div>')

    def section(self, title: str, *blocks: str) -> None:
        """A titled box around blocks, which `text`, `table`, `figure`, `picture` and `grid` give."""
        self.parts.append(f"<section><h2>{escape(title)}</h2>{''.join(blocks)}</section>")

    def html(self) -> str:
        """The whole file."""
        head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
        body = "\n".join(self.parts)
        return (
            f'<!doctype html>\n<html lang="en"><head>{head}<title>{escape(self.title)}</title></head>\n'
            f"<body><main>\n{body}\n</main></body></html>\n"
        )

    def save(self, path: str | Path) -> None:
        """Write it."""
        # Half a letter, as names from JSON may hold, is written as its number.
        Path(path).write_text(self.html(), encoding="utf-8", errors="xmlcharrefreplace")


def escape(value: Any) -> str:
    """Any text as HTML shows it: names from files are no markup."""
    return html.escape(str(value))


def shortened(name: str, most: int = 40) -> str:
    """A name that may be of any length, for where there is little room."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def text(*sentences: str) -> str:
    """A paragraph; of several, one part."""
    shown = "".join(f"<p>{escape(one)}</p>" for one in sentences)
    return shown if len(sentences) == 1 else f"<div>{shown}</div>"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], groups: Sequence[tuple[str, int]] = ()) -> str:
    """Rows under a head; the first column names them, floats are shown with one digit.

    groups  what stands above the head: (title, columns that it spans)
    """
    above = "".join(f'<th class="group" colspan="{span}">{escape(title)}</th>' for title, span in groups)
    top = (f"{above}</tr><tr>" if above else "") + "".join(f"<th>{escape(one)}</th>" for one in head)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(_cell(one))}</td>' for one in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'


def heading(title: str, sentence: str = "") -> str:
    """The title of a part of a section, and what there is to say of it."""
    return f"<h3>{escape(title)}</h3>{text(sentence) if sentence else ''}"


def tall(block: str) -> str:
    """A long table that scrolls within the page, its head staying in sight."""
    return block.replace('class="wide"', 'class="wide tall"', 1)


def legend(names: Iterable[tuple[str, str]]) -> str:
    """What the colours of a figure mean: (CSS colour, name). In the page, as a browser has letters for every name."""
    return f'<div class="legend">{"".join(map(_key, names))}</div>'


def heat(corner: str, columns: Sequence[str], rows: Iterable[tuple[str, Sequence[tuple[Any, float, str]]]]) -> str:
    """A table of shaded cells.

    corner   what rows and columns are
    columns  their names, written upright
    rows     (name, cells), each cell a value, how dark it is from 0 to 1, and the CSS variable or colour that it has
    """
    head = "".join(f'<th title="{escape(one)}">{escape(one)}</th>' for one in columns)
    lines = "".join(
        f'<tr><th title="{escape(name)}">{escape(name)}</th>{"".join(_shaded(*cell) for cell in cells)}</tr>'
        for name, cells in rows
    )
    about = f'<td class="corner">{escape(corner)}</td>'
    rows_of_table = f"<thead><tr>{about}{head}</tr></thead><tbody>{lines}</tbody>"
    return f'<div class="wide"><table class="heat">{rows_of_table}</table></div>'


def figure(drawing: Figure, caption: str = "") -> str:
    """A matplotlib figure as a drawing in the page; letters stay letters."""
    file = io.StringIO()
    # Names of parts are counted anew in every drawing, and would be one another's in one page.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": uuid4().hex}), warnings.catch_warnings():
        # The browser has letters that matplotlib lacks.
        warnings.filterwarnings("ignore", "Glyph")
        drawing.savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None})
    drawn = re.sub(r"^.*?(?=<svg)", "", file.getvalue(), flags=re.S)
    return f"<figure>{drawn}{_caption(caption)}</figure>"


def picture(image: Image.Image | np.ndarray, caption: str = "", width: int = 640) -> str:
    """A picture in the page, made smaller where it is wider than `width` pixels."""
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    if image.width > width:
        image = image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=85)
    data = base64.b64encode(file.getvalue()).decode()
    size = f'width="{image.width}" height="{image.height}"'
    return (
        f'<figure><img {size} alt="{escape(caption)}" src="data:image/jpeg;base64,{data}">{_caption(caption)}</figure>'
    )


def grid(blocks: Iterable[str], least: int = 260) -> str:
    """Blocks beside one another, each at least so many pixels wide."""
    return f'<div class="grid" style="--least: {least}px">{"".join(blocks)}</div>'


def _key(entry: tuple[str, str]) -> str:
    colour, name = entry
    return f'<span><i style="background: {escape(colour)}"></i>{escape(name)}</span>'


def _shaded(value: Any, share: float, colour: str) -> str:
    if share <= 0:
        return f"<td>{escape(value)}</td>"
    ink = "white" if share > 0.6 else "inherit"
    mixed = f"color-mix(in srgb, {escape(colour)} {100 * min(share, 1.0):.0f}%, var(--ground))"
    return f'<td style="background: {mixed}; color: {ink}">{escape(value)}</td>'


def row(blocks: Iterable[str]) -> str:
    """Blocks beside one another, each as wide as it is."""
    return f'<div class="row">{"".join(blocks)}</div>'


def _caption(caption: str) -> str:
    return f"<figcaption>{escape(caption)}</figcaption>" if caption else ""


def _cell(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)
