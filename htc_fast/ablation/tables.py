"""The paper's Tables 2 to 6 as data: which model makes a row, what it is compared with, what the paper found."""

from dataclasses import dataclass

from htc_fast.errors import UserError

COLUMNS = ("box AP", "mask AP", "AP50", "AP75", "AP S", "AP M", "AP L")
# The columns as evaluations call them.
METRICS = dict(
    zip(
        COLUMNS,
        ("box_AP", "mask_AP", "mask_AP50", "mask_AP75", "mask_AP_small", "mask_AP_medium", "mask_AP_large"),
        strict=True,
    )
)


@dataclass(frozen=True)
class Row:
    """One row of a table.

    label  what the row is in the paper's words
    model  its name in the zoo
    base   the row of the same table that it is a step from, by its place; its own place: none
    paper  the paper's numbers, in the table's columns; none for a row that the paper does not have
    stage  which stage alone is tested; None: all together
    """

    label: str
    model: str
    base: int
    paper: tuple[float, ...]
    stage: int | None = None


@dataclass(frozen=True)
class Table:
    """One table; its columns are the last ones of `COLUMNS`."""

    number: int
    title: str
    rows: tuple[Row, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """As many as the paper's rows have numbers."""
        return COLUMNS[-max(len(row.paper) for row in self.rows) :]


_CASCADE = (42.5, 36.5, 57.9, 39.4, 18.9, 39.5, 50.8)
_INTERLEAVED = (42.5, 36.7, 57.7, 39.4, 18.9, 39.7, 50.8)
_FLOW = (42.5, 37.4, 58.1, 40.3, 19.6, 40.3, 51.5)
_WHOLE = (43.2, 38.0, 59.4, 40.7, 20.3, 40.9, 52.3)

_COMPONENTS = (
    Row("cascade", "cascade_mask_r50", 0, _CASCADE),
    Row("+ interleaved", "cascade_mask_r50_interleaved", 0, _INTERLEAVED),
    Row("+ mask information flow", "htc_r50_nosem", 0, _FLOW),
    Row("+ semantic branch", "htc_r50", 0, _WHOLE),
)
_EXECUTION = (
    Row("Mask R-CNN, parallel", "mask_rcnn_r50", 0, (38.4, 35.1, 56.6, 37.4, 18.7, 38.4, 47.7)),
    Row("Mask R-CNN, interleaved", "mask_rcnn_r50_interleaved", 0, (38.7, 35.6, 57.2, 37.9, 19.0, 39.0, 48.3)),
    Row("Cascade Mask R-CNN, parallel", "cascade_mask_r50", 2, _CASCADE),
    Row("Cascade Mask R-CNN, interleaved", "cascade_mask_r50_interleaved", 2, _INTERLEAVED),
)
_STAGES = (
    Row("without flow, stage 1", "cascade_mask_r50_interleaved", 0, (35.5, 56.7, 37.8, 18.7, 38.8, 48.6), 1),
    Row("without flow, stage 2", "cascade_mask_r50_interleaved", 0, (36.3, 57.5, 39.0, 18.8, 39.4, 50.6), 2),
    Row("without flow, stage 3", "cascade_mask_r50_interleaved", 0, (35.9, 56.5, 38.7, 18.2, 39.1, 49.9), 3),
    Row("without flow, stages 1 to 3", "cascade_mask_r50_interleaved", 0, _INTERLEAVED[1:]),
    Row("with flow, stage 1", "htc_r50_nosem", 4, (35.5, 56.8, 37.8, 19.0, 38.8, 49.0), 1),
    Row("with flow, stage 2", "htc_r50_nosem", 4, (37.0, 58.0, 39.8, 19.4, 39.8, 51.3), 2),
    Row("with flow, stage 3", "htc_r50_nosem", 4, (36.8, 57.2, 39.9, 18.7, 39.8, 51.1), 3),
    Row("with flow, stages 1 to 3", "htc_r50_nosem", 4, _FLOW[1:]),
)
_FUSION = (
    Row("no semantic branch", "cascade_mask_r50", 0, _CASCADE[1:]),
    Row("as an auxiliary loss", "cascade_mask_r50_sem_none", 0, (37.1, 58.6, 39.9, 19.3, 40.0, 51.7)),
    Row("fused into boxes", "cascade_mask_r50_sem_bbox", 0, (37.3, 58.9, 40.2, 19.4, 40.2, 52.3)),
    Row("fused into masks", "cascade_mask_r50_sem_mask", 0, (37.4, 58.7, 40.2, 19.4, 40.1, 52.4)),
    Row("fused into both", "cascade_mask_r50_sem_both", 0, (37.5, 59.1, 40.4, 19.6, 40.3, 52.6)),
)
_WEIGHT = (
    Row("β = 0.2, as released", "htc_r50_beta0.2", 2, ()),
    Row("β = 0.5", "htc_r50_beta0.5", 2, (37.9, 59.3, 40.7, 19.7, 41.0, 52.5)),
    Row("β = 1", "htc_r50", 2, _WHOLE[1:]),
    Row("β = 2", "htc_r50_beta2", 2, (37.9, 59.3, 40.6, 19.6, 40.8, 52.8)),
    Row("β = 3", "htc_r50_beta3", 2, (37.8, 59.0, 40.5, 19.9, 40.5, 53.2)),
)
TABLES = {
    table.number: table
    for table in (
        Table(2, "the components, one after the other", _COMPONENTS),
        Table(3, "parallel and interleaved execution", _EXECUTION),
        Table(4, "stages of the cascade tested alone", _STAGES),
        Table(5, "what the semantic branch is fused into", _FUSION),
        Table(6, "weight of the semantic loss", _WEIGHT),
    )
}


def chosen(numbers: tuple[int, ...]) -> list[Table]:
    """The tables of these numbers, in the paper's order.

    raises  UserError if there is none of a number, or no number at all
    """
    unknown = [number for number in numbers if number not in TABLES]
    if unknown or not numbers:
        what = f"there is no table {unknown[0]} to train" if unknown else "no table is named"
        raise UserError(f"{what}: choose some of {', '.join(map(str, TABLES))} (--tables).")
    return [table for number, table in TABLES.items() if number in numbers]


def needed(tables: list[Table]) -> dict[str, tuple[int | None, ...]]:
    """Model -> which stages of it are to be tested; each model stands there once, whatever tables share it."""
    found: dict[str, dict[int | None, None]] = {}
    for row in (row for table in tables for row in table.rows):
        found.setdefault(row.model, {})[row.stage] = None
    return {model: tuple(stages) for model, stages in found.items()}
