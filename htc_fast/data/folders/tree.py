"""All files below a folder, listed once: what a format is recognised by, and what tells that something changed."""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from htc_fast.data.formats import SUFFIXES
from htc_fast.data.names import folded
from htc_fast.errors import UserError

# What counts: a run's logs and weights beside the data do not.
KEPT = (*SUFFIXES, ".json", ".txt", ".yaml", ".yml", ".xml", ".npy")
MOST_FILES = 5_000_000
HEAD = 1 << 16  # bytes of a JSON file that show what it is
_UPLOAD = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts before the names of uploaded files
_SPLIT = re.compile(r"(?:stage1_)?(?:(train(?:ing)?)|(val(?:id|idation)?)|(test(?:ing)?))(?:\d{4})?")
_KEYS = re.compile(rb'"(images|annotations|categories|shapes|imageData|regions|_via_settings|_via_img_metadata)"\s*:')
_KINDS = dict.fromkeys((b"images", b"annotations", b"categories"), "coco")
_KINDS |= dict.fromkeys((b"shapes", b"imageData"), "labelme")  # sorted keys have the picture before the shapes


class Tree:
    """The files below a folder but hidden ones, links followed.

    files   path relative to the root, with / -> (bytes, time of its last change); sorted
    raises  UserError if there are so many that it is no data set's folder, or the folder cannot be read
    """

    def __init__(self, root: Path):
        self.root = root
        found: dict[str, tuple[int, int]] = {}
        seen: set[str] = set()
        for place, folders, names in os.walk(root, followlinks=True):
            real = os.path.realpath(place)
            # A link to a folder above would go round for ever.
            folders[:] = [] if real in seen else sorted(one for one in folders if not one.startswith("."))
            if real in seen:
                continue
            seen.add(real)
            inside = os.path.relpath(place, root)
            for name in names:
                if name.startswith(".") or os.path.splitext(name)[1].lower() not in KEPT:
                    continue
                try:
                    about = os.stat(os.path.join(place, name))
                except OSError:
                    continue
                found[name if inside == "." else f"{inside}/{name}"] = (about.st_size, about.st_mtime_ns)
            if len(found) > MOST_FILES:
                raise UserError(f"{root} holds more than {MOST_FILES} files: name the folder of the data set itself.")
        self.files = dict(sorted(found.items()))

    @property
    def key(self) -> str:
        """A short text that differs when a file was added, taken out or changed."""
        return hashlib.sha256(repr(self.files).encode("utf-8", "surrogatepass")).hexdigest()[:20]

    @cached_property
    def pictures(self) -> list[str]:
        """Files with a picture's suffix, label maps among them."""
        return [name for name in self.files if name.lower().endswith(SUFFIXES)]

    @cached_property
    def by_name(self) -> dict[str, list[str]]:
        """Pictures by their last name, in whatever case and with whatever form of accents."""
        found: dict[str, list[str]] = defaultdict(list)
        for one in self.pictures:
            found[folded(os.path.basename(one))].append(one)
        return found

    def longest_end(self, name: str) -> str | None:
        """The picture whose path shares the longest end with a name; None where there is none, or more than one."""
        return next((found for one in _readings(name) if (found := self._longest_end(one))), None)

    def _longest_end(self, name: str) -> str | None:
        parts = [folded(one) for one in re.split(r"[\\/]", name) if one]
        if not parts:
            return None
        for last in dict.fromkeys((parts[-1], _UPLOAD.sub("", parts[-1]))):
            shared = defaultdict(list)
            for file in self.by_name.get(last, []):
                own = [folded(one) for one in file.split("/")]
                same = 0
                while same < min(len(own), len(parts)) - 1 and own[-2 - same] == parts[-2 - same]:
                    same += 1
                shared[same].append(file)
            if shared:
                best = shared[max(shared)]
                return best[0] if len(best) == 1 else None
        return None

    @cached_property
    def kinds(self) -> dict[str, str]:
        """JSON files by what they hold: "coco", "labelme" or "via"; others are left out."""
        found = {name: kind_of_json(self.root / name) for name in self.files if name.lower().endswith(".json")}
        return {name: kind for name, kind in found.items() if kind}

    def of_kind(self, kind: str) -> list[str]:
        """Its JSON files."""
        return [name for name, one in self.kinds.items() if one == kind]


def _readings(name: str) -> Iterator[str]:
    """A name as it stands; of an address, without what is asked of a server, and without %20."""
    yield name
    plain = name.replace("?d=", "/")
    if "://" in name:
        plain = plain.partition("?")[0]
    yield from (one for one in dict.fromkeys((plain, unquote(plain))) if one != name)


def kind_of_json(path: Path) -> str:
    """What a JSON file holds by the first of its keys that says it: coco, labelme, via; "" for others."""
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD).replace(b"\0", b"")
    except OSError:
        return ""
    keys = _KEYS.findall(head)
    # A list is no annotation file: results, or Label Studio's own tasks.
    if not keys or head.lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n").startswith(b"["):
        return ""
    # A list of categories alone is what YOLO exports of Label Studio have beside them.
    if set(keys) == {b"categories"} and len(head) < HEAD // 2:
        return ""
    return _KINDS.get(keys[0], "via")


def split_of(name: str) -> str | None:
    """The split that a word stands for: "train", "val" or "test"; None for any other word."""
    match = _SPLIT.fullmatch(name.casefold())
    return match and ("train" if match[1] else "val" if match[2] else "test")


def split_in(path: str) -> str | None:
    """The split that a folder on a path stands for, the outermost one."""
    return next((split for part in PurePosixPath(path).parts[:-1] if (split := split_of(part))), None)
