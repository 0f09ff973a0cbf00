"""What is in a data set, as a page and as JSON: counts, sizes, problems, advice, and pictures with their masks."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from htc_fast.data.coco import CocoDataset
from htc_fast.data.statistics import SEEN, Split, look_at_files, measure
from htc_fast.errors import few
from htc_fast.pages import dataset_figures
from htc_fast.pages.dataset_advice import advice, problems
from htc_fast.pages.dataset_pictures import class_rows, contact_sheet
from htc_fast.pages.page import Page, figure, grid, legend, table, tall, text

LONG_TABLE = 24  # rows of a table that scrolls within the page


def describe(
    datasets: dict[str, CocoDataset], said: Sequence[str] = (), seen: Callable[[int], object] = lambda count: None
) -> tuple[dict[str, Any], list[Split]]:
    """All numbers of a data set's splits.

    datasets  by the split's name, made with keep_empty=True
    said      what was said when they were read
    seen      is called with numbers of pictures done; each comes twice
    returns   what look.json holds: splits, said, problems, advice, files; and the measured splits
    """
    splits = [measure(dataset, name, seen) for name, dataset in datasets.items()]
    files = look_at_files(datasets.items(), seen)
    content: dict[str, Any] = {"splits": {split.name: split.summary() for split in splits}}
    content["said"], content["problems"] = list(said), problems(splits, files)
    content["advice"] = advice(splits, _classes(splits))
    content["files"] = {
        "unreadable": files.unreadable,
        "of_another_size": files.resized,
        "turned_by_exif": files.turned,
        "same_bytes": files.same,
    }
    return content, splits


def write_page(
    datasets: dict[str, CocoDataset],
    folder: Path,
    *,
    title: str,
    said: Sequence[str] = (),
    pictures: int = 12,
    seen: Callable[[int], object] = lambda count: None,
) -> dict[str, Any]:
    """Write index.html and look.json into a folder.

    pictures  on the contact sheet, spread over the splits
    returns   what look.json holds
    """
    content, splits = describe(datasets, said, seen)
    page = Page(title, _about(splits))
    objects = sum(len(split.labels) for split in splits)
    cards: list[tuple[str, Any]] = [
        ("pictures", f"{sum(len(split.pictures) for split in splits):,}"),
        ("objects", f"{objects:,}"),
    ]
    cards += [("classes", len(_classes(splits))), ("problems", len(content["problems"]))]
    page.cards(cards)
    if content["said"]:
        page.section("As it was read", *map(text, content["said"]))
    if content["problems"]:
        page.section("Problems", *map(text, content["problems"]))
    if content["advice"]:
        page.section("What follows", *map(text, content["advice"]))
    colours = legend((colour, split.name) for split, colour in dataset_figures.coloured(splits))
    page.section("Classes", colours, figure(dataset_figures.classes(splits)), _class_table(splits))
    if objects:
        page.section("Sizes of objects", colours, figure(dataset_figures.objects(splits)), _size_table(splits))
    page.section("Sizes of pictures", colours, figure(dataset_figures.pictures(splits)))
    if pictures:
        page.section("A look at them", grid(contact_sheet(datasets, splits, pictures), least=340))
        page.section("Examples of each class", *class_rows(datasets, splits, _totals(splits)))
    folder.mkdir(parents=True, exist_ok=True)
    page.save(folder / "index.html")
    (folder / "look.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return content


def _classes(splits: Sequence[Split]) -> list[str]:
    return list(dict.fromkeys(name for split in splits for name in split.classes))


def _totals(splits: Sequence[Split]) -> list[dict[str, Any]]:
    """Objects and pictures of each class in all splits together."""
    by_name = [{one["name"]: one for one in split.by_class()} for split in splits]
    found = []
    for name in _classes(splits):
        mine = [one[name] for one in by_name if name in one]
        found.append({"name": name, **{key: sum(one[key] for one in mine) for key in ("objects", "pictures")}})
    return found


def _class_table(splits: Sequence[Split]) -> str:
    head = ["class", *["objects", "pictures", "median side, px"] * len(splits)]
    by_name = [{one["name"]: one for one in split.by_class()} for split in splits]
    rows = []
    for name in _classes(splits):
        row: list[Any] = [name]
        for one in by_name:
            found = one.get(name)
            side = None if found is None else found["median_side"]
            row += ["–"] * 3 if found is None else [found["objects"], found["pictures"], "–" if side is None else side]
        rows.append(row)
    made = table(head, rows, [("", 1), *((split.name, 3) for split in splits)])
    return tall(made) if len(rows) > LONG_TABLE else made


def _size_table(splits: Sequence[Split]) -> str:
    head = ["split", "small, < 32² px", "medium", "large, ≥ 96² px", f"median side seen at {SEEN[0]} × {SEEN[1]}, px"]
    rows = []
    for split in splits:
        summary = split.summary()
        shares = [f"{100 * share:.0f} %" if share is not None else "–" for share in summary["shares"].values()]
        side = summary["median_side_seen"]
        rows.append([split.name, *shares, "–" if side is None else side])
    return table(head, rows)


def _about(splits: Sequence[Split]) -> str:
    return few([f"{split.name}: {len(split.pictures):,} pictures of {split.file}" for split in splits])
