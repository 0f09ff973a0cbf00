"""Results as tables: our means and spreads beside the paper's numbers, and which of its steps they support."""

from typing import Any

from htc_fast.ablation.one import key
from htc_fast.ablation.runs import clock, seconds
from htc_fast.ablation.steps import RULE, Step, Value, step, value
from htc_fast.ablation.tables import METRICS, Row, Table, chosen

NOT_MEASURED = "–"
VERDICTS = ("supported, as in the paper", "supported, against the paper", "supported", "not supported")


def numbers(result: dict[str, Any], row: Row, column: str) -> dict[int, float]:
    """Seed -> one of a row's numbers, in percent; nothing where no such object was there to be found."""
    found = {}
    for run in result["runs"]:
        scores = run["stages"].get(key(row.stage)) if run["model"] == row.model else None
        if scores is not None and scores[METRICS[column]] >= 0:
            found[run["seed"]] = 100 * scores[METRICS[column]]
    return found


def step_of(result: dict[str, Any], table: Table, row: Row, column: str = "mask AP") -> Step | None:
    """Our step from the row that this one is compared with; None for that row itself, or before there are both."""
    base = table.rows[row.base]
    return None if base is row else step(numbers(result, row, column), numbers(result, base, column))


def paper_step(table: Table, row: Row, column: str = "mask AP") -> float | None:
    """The paper's step; None for the row that others are compared with, or one that the paper does not have."""
    base, place = table.rows[row.base], _place(table, column)
    return None if base is row or not row.paper else round(row.paper[place] - base.paper[place], 1)


def verdict(ours: Step | None, theirs: float | None) -> str:
    """What our runs say of the paper's step."""
    if ours is None:
        return ""
    if not ours.supported:
        return "not supported"
    if not theirs:
        return "supported"
    return "supported, as in the paper" if ours.mean * theirs > 0 else "supported, against the paper"


def markdown(result: dict[str, Any], level: int = 2) -> str:
    """All tables of a result, what they were made of, and the rule that they follow.

    level  of the headings of the tables
    """
    parts = [about(result)]
    for table in chosen(tuple(result["tables"])):
        parts += [f"{'#' * level} Table {table.number}: {table.title}", one_table(result, table)]
    return "\n\n".join([*parts, counted(result), RULE])


def one_table(result: dict[str, Any], table: Table) -> str:
    """A table in Markdown: each number ours ± spread / the paper's."""
    head = ["", *table.columns, "step in mask AP", "paper's step", ""]
    lines = [head, ["---", *(["---:"] * (len(head) - 2)), "---"]]
    for row in table.rows:
        cells = []
        for place, column in enumerate(table.columns):
            published = f"{row.paper[place]:.1f}" if row.paper else NOT_MEASURED
            cells.append(f"{_words(value(list(numbers(result, row, column).values())))} / {published}")
        ours, theirs = step_of(result, table, row), paper_step(table, row)
        shown = "" if theirs is None else f"{theirs:+.1f}"
        lines.append([f"{row.label} (`{row.model}`)", *cells, step_words(ours), shown, verdict(ours, theirs)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def step_words(ours: Step | None) -> str:
    """A step with half its interval, bold where it is supported."""
    if ours is None:
        return ""
    # A step that is small and sure is not to look like none.
    digits = 1 if abs(ours.mean) >= 0.1 or not ours.supported else 2
    half = "" if ours.half is None else f" ± {ours.half:.{digits}f}"
    mean = f"{round(ours.mean, digits) + 0.0:+.{digits}f}"
    return f"**{mean}{half}**" if ours.supported else f"{mean}{half}"


def counted(result: dict[str, Any]) -> str:
    """How many of the paper's steps our runs support, in a sentence; one that stands in two tables counts once."""
    found = {}
    for table in chosen(tuple(result["tables"])):
        for row in table.rows:
            ours, theirs, base = step_of(result, table, row), paper_step(table, row), table.rows[row.base]
            if ours is not None and theirs is not None:
                found[row.model, row.stage, base.model, base.stage] = verdict(ours, theirs)
    said = list(found.values())
    counts = ", ".join(f"{said.count(one)} {one}" for one in VERDICTS if one in said)
    return f"Of {len(said)} steps in mask AP that the paper took: {counts}." if said else "There is no step yet."


def about(result: dict[str, Any]) -> str:
    """What was trained on what, how long, and what it cost."""
    settings, machine, runs = result["settings"], result["machine"], result["runs"]
    seeds = sorted({run["seed"] for run in runs})
    models = len({run["model"] for run in runs})
    steps = ", ".join(f"{count}" for count in sorted({run["iterations"] for run in runs}))
    size = f"{settings['image_size'][0]} px" + (f", crops of {settings['crop']} px" if settings["crop"] else "")
    pictures = sorted({one["pictures"] for run in runs for one in run["stages"].values()})
    changed = " ".join(f"{name}={short}" for name, short in settings["set"].items())
    spent = sum(run.get("processor seconds", 0.0) for run in runs)
    cost = f"{clock(sum(map(seconds, runs)))} of runs, {result['jobs']} side by side, {clock(spent)} of processor time"
    versions = ", ".join(f"{name} {machine[name]}" for name in ("htc_fast", "torch") if name in machine)
    return (
        f"{models} models × {len(seeds)} seeds on {result['data']}: {settings['training data']} to train on, "
        f"{', '.join(map(str, pictures))} held out; {steps} steps of {settings['batch_size']} pictures, {size}, "
        f"{settings['backbone'] or 'the models’ own backbones'}, {settings['optimizer']}"
        f"{f', {changed}' if changed else ''}. {machine['device']}, {versions}, {machine['date']}: {cost}. "
        "Cells: mean over the seeds ± their standard deviation / the paper's number, which is that of "
        "COCO at full size, in percent; S, M and L by the boxes' areas."
    )


def _place(table: Table, column: str) -> int:
    return table.columns.index(column)


def _words(found: Value | None) -> str:
    if found is None:
        return NOT_MEASURED
    return f"{found.mean:.1f}" + ("" if found.spread is None else f" ± {found.spread:.1f}")
