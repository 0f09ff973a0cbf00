"""JSON files as people have them: in any Unicode encoding, with a mark at the start; never half read without a word."""

import json
from pathlib import Path

from htc_fast.errors import UserError
from htc_fast.models.weights.files import instead

# Of two values for one of these, wherever it stands, either may be meant; other keys twice do no harm.
MEANT = set("images annotations categories segments_info id image_id category_id file_name name width height".split())
MEANT |= set("bbox area iscrowd ignore segmentation".split())


def read_json(path: str | Path) -> dict:
    """Read a JSON object.

    raises  UserError if the file is missing, is no JSON, holds something else or one key twice
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"annotation file {path} is missing: check the path.") from None
    except IsADirectoryError:
        raise UserError(f"annotation file {path} is a folder: name the JSON file in it.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"annotation file {path} cannot be read ({error}): check the path.") from None
    kind = "a zip archive: unpack it first" if content[:4] == b"PK\3\4" else instead(content[:256])
    if kind:
        raise UserError(f"annotation file {path} is {kind}.")
    try:
        found = _parsed(content)
    except json.JSONDecodeError as error:
        raise UserError(
            f"annotation file {path} is not valid JSON ({_reason(error)}): it may be cut off; fetch or write it again."
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"annotation file {path} is not valid JSON ({error}): save it as UTF-8.") from None
    except RecursionError:
        raise UserError(f"annotation file {path} is nested too deeply: expected a COCO JSON file.") from None
    except _Twice as error:
        raise UserError(
            f"annotation file {path} has {error} twice in one object: only one of the two can count, so take one out."
        ) from None
    if not isinstance(found, dict):
        raise UserError(f"annotation file {path} holds a JSON {type(found).__name__}: expected a COCO object.")
    return found


class _Twice(Exception):
    """A key that an object holds twice, with different values."""


def _parsed(content: bytes) -> object:
    try:
        return json.loads(content, object_pairs_hook=_object)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except ValueError:
        # Python refuses to make whole numbers of thousands of digits; as floats they are infinite, and told where used.
        return json.loads(content, object_pairs_hook=_object, parse_int=_whole)


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) < 1000 else float(digits)


def _object(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        for key, value in pairs:
            if key in MEANT and _differ(value, found[key]):
                raise _Twice(repr(key))
    return found


def _differ(one: object, other: object) -> bool:
    try:
        return one != other
    except RecursionError:
        return True


def _reason(error: json.JSONDecodeError) -> str:
    if not error.doc.strip("\ufeff \t\r\n"):
        return "it is empty"
    if error.msg == "Extra data":
        return f"a second value begins in line {error.lineno}, as in JSON lines: expected one object"
    return f"{error.msg}, line {error.lineno}, column {error.colno}"
