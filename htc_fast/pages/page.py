"""One HTML file with all that it shows inside: text, tables, SVG drawings, JPEG pictures; no script, no network."""

import base64
import html
import io
import re
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
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 0 0 12px; }
p { margin: 6px 0; max-width: 80ch; } p.about, figcaption { color: var(--pale); }
section { background: white; border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px; margin: 18px 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 12px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--pale); font-weight: 600; } th:first-child, td:first-child { text-align: left; }
figure { margin: 0; } figure svg, figure img { max-width: 100%; height: auto; border-radius: 6px; display: block; }
figcaption { font-size: 13px; margin-top: 4px; overflow-wrap: anywhere; }
.grid { display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(var(--least), 1fr)); }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin-top: 14px; }
.card { background: white; border: 1px solid var(--line); border-radius: 10px; padding: 10px 16px; }
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
        Path(path).write_text(self.html(), encoding="utf-8")


def escape(value: Any) -> str:
    """Any text as HTML shows it: names from files are no markup."""
    return html.escape(str(value))


def text(sentence: str) -> str:
    """A paragraph."""
    return f"<p>{escape(sentence)}</p>"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows under a head; the first column names them, floats are shown with one digit."""
    top = "".join(f"<th>{escape(one)}</th>" for one in head)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(_cell(one))}</td>' for one in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'


def figure(drawing: Figure, caption: str = "") -> str:
    """A matplotlib figure as a drawing in the page; letters stay letters."""
    file = io.StringIO()
    # Names of parts are counted anew in every drawing, and would be one another's in one page.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": uuid4().hex}):
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


def _caption(caption: str) -> str:
    return f"<figcaption>{escape(caption)}</figcaption>" if caption else ""


def _cell(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)
