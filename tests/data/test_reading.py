"""JSON files: every encoding of Unicode is read, what is no JSON object is one sentence."""

import gzip
import json

import pytest

from htc_fast import UserError
from htc_fast.data.annotations import read_annotations
from htc_fast.data.reading import read_json
from tests.data.builder import two_pictures

TEXT = json.dumps({"images": [], "name": "Zürich"}, ensure_ascii=False)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_encodings(tmp_path, encoding):
    path = tmp_path / "a.json"
    path.write_bytes(TEXT.encode(encoding))
    assert read_json(path) == {"images": [], "name": "Zürich"}


REFUSED = {
    "empty": (b"", "not valid JSON (it is empty)"),
    "a mark alone": (b"\xef\xbb\xbf \n", "not valid JSON (it is empty)"),
    "cut off": (b'{"images": [', "not valid JSON (Expecting value, line 1, column 13): it may be cut off"),
    "trailing comma": (b'{"images": [],}', "not valid JSON"),
    "lines": (b'{"id": 1}\n{"id": 2}\n', "not valid JSON (a second value begins in line 2, as in JSON lines"),
    "latin-1": ('{"name": "Zürich"}'.encode("latin-1"), "save it as UTF-8"),
    "gzip": (gzip.compress(b"{}"), "is a compressed file: unpack it first"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1", "is a Git LFS pointer instead of the file it points to"),
    "web page": (b"\n<!DOCTYPE html><p>404", "is a web page"),
    "zip": (b"PK\x03\x04", "is a zip archive: unpack it first"),
    "deep": (b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "is nested too deeply"),
    "a list": (b"[1]", "holds a JSON list: expected a COCO object"),
    "a number": (b"5", "holds a JSON int"),
    "key twice": (b'{"images": [1], "images": [2]}', "has 'images' twice in one object"),
    "deep key twice": (b'{"annotations": [{"bbox": [1], "bbox": null}]}', "has 'bbox' twice in one object"),
}


@pytest.mark.parametrize("content, sentence", REFUSED.values(), ids=REFUSED)
def test_refused(tmp_path, content, sentence):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_json(path)
    assert sentence in str(error.value) and "a.json" in str(error.value)


def test_a_folder_and_a_path_that_is_none(tmp_path):
    with pytest.raises(UserError, match="is a folder: name the JSON file in it"):
        read_json(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        read_json(tmp_path / "a\0.json")
    with pytest.raises(UserError, match="is missing"):
        read_json(tmp_path / "a.json")


def test_the_same_twice_and_what_nobody_reads(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"id": 1, "id": 1, "note": "a", "note": "b"}')
    assert read_json(path) == {"id": 1, "note": "b"}


LARGE = ["1e999", "-Infinity", "NaN", "1" + "0" * 5000, "-" + "9" * 5000, "1e15", "1000001", "50000", "0", "-3", "0.5"]


@pytest.mark.parametrize("width", LARGE, ids=[one[:9] for one in LARGE])
def test_numbers_that_no_picture_has(tmp_path, width):
    """As a width they are an error that shows them, as a coordinate one annotation less."""
    text = json.dumps(two_pictures())
    path = tmp_path / "a.json"
    path.write_text(text.replace('"width": 64, "height": 48', f'"width": {width}, "height": 50000'))
    with pytest.raises(UserError, match=r"its width is .* \(number\)\.|is said to be [0-9]+ x 50000 pixels"):
        read_annotations(path)
    path.write_text(text.replace("[[8, 4, 28, 4,", f"[[{width}, 4, 28, 4,"))
    drawn = width in ("1e15", "1000001", "50000", "0", "-3", "0.5")
    assert read_annotations(path).trainable == ([2, 1] if drawn else [1, 1])
