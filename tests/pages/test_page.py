"""A page: all inside one file, names from elsewhere shown as they are, drawings that do not mix."""

from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure

from htc_fast.pages import page
from tests.pages.browser import needs_browser, screenshot


class Tags(HTMLParser):
    """Every tag with its attributes; open and closed ones must pair."""

    def __init__(self):
        super().__init__()
        self.found, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def tags(source):
    parser = Tags()
    parser.feed(source)
    parser.close()
    assert not parser.open
    return parser.found


def drawing(value):
    one = Figure(figsize=(3, 2))
    one.add_subplot().plot([0, value], label="<b>")
    return one


def test_all_of_it_is_in_the_file(tmp_path):
    made = page.Page("found <script>", "about & more")
    made.cards([("AP", "40.1")])
    shown = page.picture(np.zeros((40, 900, 3), dtype=np.uint8), "a<b.jpg")
    made.section("parts", page.text("x < y"), page.table(["class", "AP"], [["<i>", 12.345]]), page.grid([shown]))
    made.section("drawn", page.figure(drawing(1), "one"), page.figure(drawing(2), "two"))
    made.save(tmp_path / "page.html")
    source = (tmp_path / "page.html").read_text(encoding="utf-8")
    found = tags(source)
    names = [tag for tag, _ in found]
    assert "script" not in names and "link" not in names and "i" not in names and names.count("svg") == 2
    [image] = [attrs for tag, attrs in found if tag == "img"]
    assert image["src"].startswith("data:image/jpeg;base64,") and (image["width"], image["height"]) == ("640", "28")
    assert "12.3</td>" in source and "&lt;i&gt;" in source and "a&lt;b.jpg" in source
    ids = [attrs["id"] for tag, attrs in found if "id" in attrs and tag not in ("svg", "g")]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("value", ["<img src=x>", "a & b", '"quoted"'])
def test_text_is_no_markup(value):
    assert tags(page.text(value)) == [("p", {})]


@needs_browser
def test_a_browser_shows_it(tmp_path):
    made = page.Page("A page", "of three colours")
    made.section("red", page.picture(np.full((300, 600, 3), (200, 0, 0), dtype=np.uint8)))
    made.section("drawn", page.figure(drawing(1)))
    made.save(tmp_path / "page.html")
    seen = screenshot(tmp_path / "page.html", tmp_path / "seen.png", 900, 900).astype(int)
    red = (seen[..., 0] > 180) & (seen[..., 1:].max(axis=-1) < 30)
    assert seen.shape == (900, 900, 3) and 0.8 * 300 * 600 < red.sum() < 1.1 * 300 * 600


@needs_browser
def test_on_a_telephone_nothing_is_wider_than_the_screen(tmp_path):
    made = page.Page("x" * 200)
    made.section("wide", page.grid([page.figure(drawing(1)), page.text("word " * 60)], 420))
    made.save(tmp_path / "page.html")
    frame = '<body style="margin: 0"><iframe src="page.html" width="360" height="700" style="border: 0"></iframe>'
    (tmp_path / "frame.html").write_text(frame)  # the browser's own window cannot be that narrow
    seen = screenshot(tmp_path / "frame.html", tmp_path / "seen.png", 500, 700)
    assert seen[100, 50].tolist() != [255, 255, 255], "the page is there"
    assert (seen[:, 342:358] == seen[0, 350]).all(), "its margin is empty"
