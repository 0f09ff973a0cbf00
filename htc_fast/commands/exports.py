"""What `predict` leaves for other tools: the files of every format that is asked for, written as pictures are done."""

import contextlib
import json
import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from htc_fast.commands.output import JsonList, Table, check_kept, replacing, writing
from htc_fast.data.exports.georeference import georeference
from htc_fast.data.exports.table import COLUMNS
from htc_fast.data.exports.yolo import data_yaml
from htc_fast.data.instances import Instances
from htc_fast.errors import UserError, choose, few, say_once

# What there is by format; with a picture's name in it, a file for each.
FILES = {
    "coco": ("results.json",),
    "labelme": ("labelme/{}.json",),
    "yolo": ("labels/{}.txt", "data.yaml"),
    "geojson": ("geojson/{}.geojson",),
    "csv": ("objects.csv",),
}
LINKS = {"labelme": "labelme", "yolo": "images"}  # folders where the tools look for the pictures
RESULTS = ("results.json", "objects.csv")  # replaced by those of the next run; the others are corrected by hand


def check_formats(formats: Sequence[str]) -> None:
    """raises  UserError for one that is not there, or none at all"""
    if not formats:
        raise UserError(f"--format takes at least one of {', '.join(FILES)}, got none.")
    for one in formats:
        choose(one, FILES, "--format")


class Exports:
    """Files in `out`; within the block, pictures are added one by one.

    formats       of FILES
    sources       the pictures, and by number the names of their files (`stems`)
    annotations   a file that is read and must stay
    raises        UserError, before anything is written, where one would replace what people draw and correct
    """

    def __init__(
        self,
        formats: Sequence[str],
        out: Path,
        sources: Sequence[Path],
        names: Sequence[str],
        annotations: Path | None = None,
        tolerance: float = 0.0,
    ):
        self.formats, self.out, self.sources, self.names = formats, out, sources, names
        self.tolerance, self.blank, self._lock = tolerance, 0, threading.Lock()
        self._class_names: Sequence[str] = ()
        self._written = False  # whether a picture's own files are there
        self.results = JsonList(out / "results.json") if "coco" in formats else None
        self.table = Table(out / "objects.csv", COLUMNS) if "csv" in formats else None
        every = [file for one in formats for file in FILES[one]]
        check_kept(annotations, out, [file for file in every if file in RESULTS])
        self._check_free([file for file in every if file not in RESULTS])

    def _check_free(self, files: Iterable[str]) -> None:
        each = dict.fromkeys(file.format(name) for file in files for name in self.names)
        there = [self.out / file for file in each if os.path.lexists(self.out / file)]
        for one in LINKS.keys() & set(self.formats):
            links = ((self._link(one, number), source) for number, source in enumerate(self.sources))
            there += [link for link, source in links if os.path.lexists(link) and not _same(link, source)]
        if there:
            more = f", like {len(there) - 1} more" if len(there) > 1 else ""
            raise UserError(
                f"{there[0]} is there already{more}, and may be somebody's work: choose another --out, or delete it."
            )

    def __enter__(self) -> "Exports":
        with contextlib.ExitStack() as stack:
            for one in (self.results, self.table):
                if one is not None:
                    stack.enter_context(one)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._stack.__exit__(kind, error, trace)
        # A run that was cut short before its first picture leaves nothing that the next one would not replace.
        if "yolo" in self.formats and self._written and (kind is None or issubclass(kind, KeyboardInterrupt)):
            _write(self.out / "data.yaml", data_yaml(self._class_names))

    def begin(self, class_names: Sequence[str]) -> None:
        """What no picture changes: names by label."""
        self._class_names = class_names

    def add(self, number: int, found: Instances, image_id: int | str, category_ids: Sequence) -> None:
        """Append a picture's instances to what all pictures share; in their order."""
        self._add(str(self.sources[number]), found, image_id, category_ids)

    def add_frame(
        self, video: str, number: int, seconds: float, found: Instances, image_id: int, category_ids: Sequence
    ) -> None:
        """Append those of a video's frame."""
        others = [one for one in self.formats if one not in ("coco", "csv")]
        if others:
            say_once(f"{few(others)}: written of pictures alone; of videos there are coco and csv.")
        place = {"frame": number, "seconds": round(seconds, 4)}
        self._add(video, found, image_id, category_ids, place)

    def _add(
        self, name: str, found: Instances, image_id: int | str, category_ids: Sequence, place: dict | None = None
    ) -> None:
        if self.results is not None:
            items = found.to_coco(image_id, category_ids)
            self.results.add({**item, "file_name": name, **(place or {})} for item in items)
        if self.table is not None:
            self.table.add(found.to_rows(name if place is None else f"{name}#{place['frame']}"))

    def write(self, number: int, found: Instances) -> None:
        """Write a picture's own files; threads may call it at once."""
        name, self._written = self.names[number], True
        if "labelme" in self.formats:
            link = self._link("labelme", number)
            linked = _link(link, self.sources[number])
            picture = link.name if linked else _relative(self.sources[number], link.parent)
            _write(self.out / "labelme" / f"{name}.json", json.dumps(found.to_labelme(picture, self.tolerance)))
        if "yolo" in self.formats:
            _write(self.out / "labels" / f"{name}.txt", found.to_yolo(tolerance=self.tolerance))
            _link(self._link("yolo", number), self.sources[number])
        if "geojson" in self.formats:
            placed = found.to_geojson(*georeference(self.sources[number]))
            _write(self.out / "geojson" / f"{name}.geojson", json.dumps(placed))
        if "labelme" in self.formats or "yolo" in self.formats:
            blank = int((found.areas == 0).sum())
            with self._lock:
                self.blank += blank

    def _link(self, kind: str, number: int) -> Path:
        return self.out / LINKS[kind] / f"{self.names[number]}{self.sources[number].suffix}"


def _write(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="surrogateescape")


def _relative(source: Path, folder: Path) -> str:
    """A picture as it is reached from a folder, also where that or its own folder is behind a link."""
    return os.path.relpath(os.path.join(os.path.realpath(source.parent), source.name), os.path.realpath(folder))


def _link(link: Path, source: Path) -> bool:
    """Make a picture stand where a tool looks for it; False, and said, where that cannot be."""
    if os.path.lexists(link):
        return True
    with writing(link):
        link.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.symlink(_relative(source, link.parent), link)
    except OSError as error:
        say_once(f"{link.parent} cannot hold links ({error.strerror}): copy the pictures there, named as their labels.")
        return False
    return True


def _same(link: Path, source: Path) -> bool:
    return os.path.exists(link) and os.path.exists(source) and os.path.samefile(link, source)
