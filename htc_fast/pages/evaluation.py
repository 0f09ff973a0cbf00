"""The page of an evaluation: how good a detector is, at what, after which stage, and what it does wrong."""

import json
from collections import Counter
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any

from htc_fast.evaluation.errors import KINDS
from htc_fast.evaluation.report import DRAWN, KINDS_OF_AP, Report
from htc_fast.evaluation.summary import NAMES
from htc_fast.pages import errors, page
from htc_fast.pages import evaluation_figures as figures
from htc_fast.pages.page import Page

PAGE, NUMBERS = "report.html", "report.json"
SHOWN = 6  # errors of a kind
MATRIX = 20  # classes of a matrix; of more, the most confused
LONG = 25  # rows of a table, which scrolls beyond
COLUMNS = [name.removeprefix("AP_") for name in NAMES]
GROUPS = [("masks", len(COLUMNS)), ("boxes", len(COLUMNS))]
PAIRS = 15  # confusions in a list
OBJECT, MISTAKE = "var(--accent)", "#c62f2f"
MEANING = {
    "missed": "An object that nothing was found for. The largest first.",
    "wrong class": "Mask IoU of at least 0.5 with an object of another class. The surest first.",
    "poor mask": "The box is right, its IoU is at least 0.5, but the mask's is less. The poorest first.",
    "doubled": "Found again what a better detection has found already. The surest first.",
    "invented": "Overlaps no object with an IoU of 0.5: there is nothing, or it is too far off. The surest first.",
}


def save(folder: Path, made: Report, title: str, seconds: float = inf) -> Path:
    """Write report.html and report.json.

    title    of the page: which detector
    seconds  that drawing errors may take; those that do not fit are left out, which the page says
    returns  the page's path
    raises   OSError where the folder cannot be written
    """
    built = build(made, title, seconds)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NUMBERS).write_text(json.dumps(made.numbers), encoding="utf-8")
    built.save(folder / PAGE)
    return folder / PAGE


def build(made: Report, title: str, seconds: float = inf) -> Page:
    """The page; see `save`."""
    until, numbers = monotonic() + seconds, made.numbers
    many = len(numbers["classes"])
    about = (
        f"{numbers['data']}: {numbers['pictures']} pictures, {numbers['objects']} objects, {many} "
        f"class{'' if many == 1 else 'es'}. AP in percent, as COCO counts it; all numbers are beside, in {NUMBERS}."
    )
    made_page = Page(title, about)
    _cards(made_page, numbers)
    _stages(made_page, numbers)
    _classes(made_page, numbers)
    _curves(made_page, numbers["curves"], many)
    _confusion(made_page, numbers)
    _calibration(made_page, numbers)
    _errors(made_page, made, until)
    return made_page


def percent(value: float) -> str:
    """With one digit; a dash where there was nothing to find."""
    return f"{100 * value:.1f}" if value >= 0 else "–"


def _cards(made: Page, numbers: dict[str, Any]) -> None:
    metrics, operating = numbers["stages"][numbers["of"]]["metrics"], numbers["operating"]
    made.cards(
        [
            ("mask AP", percent(metrics["mask_AP"])),
            ("mask AP50", percent(metrics["mask_AP50"])),
            ("box AP", percent(metrics["box_AP"])),
            (f"precision at score {operating['threshold']:.2f}", percent(operating["precision"])),
            ("recall there", percent(operating["recall"])),
            ("calibration error", percent(numbers["calibration"]["error"])),
        ]
    )


def _stages(made: Page, numbers: dict[str, Any]) -> None:
    """AP by size, of every stage that was evaluated: the paper's Table 4."""
    stages, last = numbers["stages"], numbers["of"]
    if len(stages) == 1:
        metrics = stages[last]["metrics"]
        rows = [[f"{kind}es" if kind == "box" else f"{kind}s", *_aps(metrics, kind)] for kind in KINDS_OF_AP]
        made.section("Average precision", page.table([last, *COLUMNS], rows))
        return
    said = f"Each stage alone, and all together (Table 4 of HTC's paper). What follows is of {_of(last)}."
    rows = [
        [name, *(one for kind in KINDS_OF_AP for one in _aps(entry["metrics"], kind))] for name, entry in stages.items()
    ]
    shown = page.table(["", *2 * COLUMNS], rows, [("", 1), *GROUPS])
    made.section("AP by stage", page.text(said), shown, page.figure(figures.by_stage(stages)))


def _of(name: str) -> str:
    return f"the {name}" if name == "ensemble" else name


def _aps(values: dict[str, float], kind: str) -> list[str]:
    return [percent(values[f"{kind}_{name}"]) for name in NAMES]


def _classes(made: Page, numbers: dict[str, Any]) -> None:
    rows = [
        [page.shortened(name), one["objects"], *(value for kind in KINDS_OF_AP for value in _aps(one, kind))]
        for name, one in numbers["classes"].items()
    ]
    shown = page.table(["class", "objects", *2 * COLUMNS], rows, [("", 2), *GROUPS])
    said = "Small is up to 32², large from 96² pixels on. A dash: no such object is in these pictures."
    made.section("AP by class and size", page.text(said), page.tall(shown) if len(rows) > LONG else shown)


def _curves(made: Page, curves: dict[str, Any], many: int) -> None:
    said = "The thick line is the mean of all classes: the area below it is AP. IoU 0.5:0.95 is the mean of ten levels."
    if many > DRAWN:
        said += f" Lines of their own have the {DRAWN} classes with most objects."
    names = [(colour, page.shortened(one["class"])) for colour, one in zip(figures.COLOURS, curves["classes"])]
    keys = page.legend([(figures.INK, "all classes"), *names])
    made.section("Precision and recall", page.text(said), page.figure(figures.precision_recall(curves)), keys)


def _confusion(made: Page, numbers: dict[str, Any]) -> None:
    """Truth by row, found by column, background last."""
    counts = {(one["truth"], one["found"]): one["count"] for one in numbers["confusion"]}
    threshold, classes = numbers["operating"]["threshold"], list(numbers["classes"])
    why = "where F1 over all classes is highest" if numbers["operating"]["f1"] else "as none is right at any score"
    said = (
        f"Detections that score at least {threshold:.3f}, {why}, and objects that they overlap with a mask IoU of "
        "at least 0.5. An object that none overlaps counts as taken for background, a detection that overlaps none as "
        "background taken for an object."
    )
    blocks = [page.text(said)]
    shown = _most_confused(counts, classes)
    if len(shown) < len(classes):
        blocks.append(page.text(f"Of {len(classes)} classes, the {len(shown)} that are most often mistaken are shown."))
    names: list[str | None] = [*shown, None]
    rows = []
    for truth in names:
        total = sum(count for (one, _), count in counts.items() if one == truth)
        cells = []
        for found in names:
            count = counts.get((truth, found), 0)
            cells.append((count or "", count / max(total, 1), OBJECT if truth == found else MISTAKE))
        rows.append((_label(truth), cells))
    side = [page.heat("truth ↓ found →", [_label(one) for one in names], rows)]
    mixed = [(pair, count) for pair, count in counts.items() if pair[0] != pair[1] and None not in pair][:PAIRS]
    if mixed and len(classes) > 2:
        pairs = [[_label(truth), _label(found), count] for (truth, found), count in mixed]
        side.append(page.table(["mixed up most: truth", "found", "times"], pairs))
    made.section("What is taken for what", *blocks, page.row(side))


def _most_confused(counts: dict[tuple[str | None, str | None], int], classes: list[str]) -> list[str]:
    """Classes in their order, at most `MATRIX`: those mixed up with others, then missed and invented ones."""
    if len(classes) <= MATRIX:
        return classes
    mixed: Counter = Counter()
    for (truth, found), count in counts.items():
        if truth != found:
            weight = 1e-6 if None in (truth, found) else 1.0
            mixed.update({name: weight * count for name in (truth, found) if name is not None})
    chosen = {name for name, _ in mixed.most_common(MATRIX)}
    return [name for name in classes if name in chosen]


def _label(name: str | None) -> str:
    return "background" if name is None else page.shortened(name, 24)


def _calibration(made: Page, numbers: dict[str, Any]) -> None:
    found, operating = numbers["calibration"], numbers["operating"]
    if not found["bins"]:
        made.section("Can scores be believed?", page.text("Nothing was found, so there are no scores to look at."))
        return
    off = sum((one["score"] - one["right"]) * one["count"] for one in found["bins"])
    least = f"{operating['threshold']:.3f}"
    best = (
        f"That score, the dotted line, gives the highest F1, {operating['f1']:.3f}: precision "
        f"{operating['precision']:.3f}, recall {operating['recall']:.3f}."
    )
    said = (
        "Of detections that score 0.8, eight in ten should be right: have the class of an object, and a mask IoU of at "
        "least 0.5 with it.",
        f"On average scores are {percent(found['error'])} points off (expected calibration error of all "
        f"{numbers['detections']} detections), rather {'higher' if off > 0 else 'lower'} than they should be; "
        f"{percent(found['error_from_threshold'])} points among those that score at least {least}.",
        best if operating["f1"] else f"None is right, so no score does better than another: the line is at {least}.",
    )
    drawn = page.figure(figures.reliability(found, operating["threshold"]))
    made.section("Can scores be believed?", page.grid([drawn, page.text(*said)], 420))


def _errors(made: Page, report: Report, until: float) -> None:
    found, threshold = report.numbers["errors"], report.numbers["operating"]["threshold"]
    total = sum(one["count"] for one in found.values())
    blocks = [page.text(f"Of detections that score at least {threshold:.3f}. Left what was found, right the truth.")]
    blocks.append(page.table(["kind", *KINDS], [["errors", *(found[kind]["count"] for kind in KINDS)]]))
    if not total:
        blocks = [
            page.text(f"There are none: every object was found, and nothing else scores at least {threshold:.3f}.")
        ]
    for kind in KINDS:
        count = found[kind]["count"]
        if not count:
            continue
        shown = list(errors.pictures(report, kind, SHOWN, until))
        blocks += [page.heading(f"{kind.capitalize()}: {count}", MEANING[kind]), page.grid(shown, 340)]
        if not shown:
            blocks.append(page.text("There was no time left to draw them: htc_fast.evaluate --report does."))
    made.section("The worst errors", *blocks)
