"""`python -m htc_fast.evaluate`: box and mask AP of a weights file on a COCO-format data set."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from tabulate import tabulate

from htc_fast.commands import entry
from htc_fast.commands.network import Inference, OnnxDetector, Predicting, stages_of
from htc_fast.commands.options import parse
from htc_fast.commands.output import check_kept, check_writable, write_json, writing
from htc_fast.data import CocoDataset
from htc_fast.data.classes import names_for
from htc_fast.data.instances import Instances
from htc_fast.device import find_device
from htc_fast.errors import MOST_DETECTIONS, UserError, check_count, check_score
from htc_fast.evaluation import coco
from htc_fast.evaluation import report as reports
from htc_fast.evaluation.summary import NAMES
from htc_fast.pages import evaluation
from htc_fast.training import distributed

ABOUT = "Box and mask AP, as pycocotools gives them."


@dataclass(frozen=True, kw_only=True)
class EvaluationRun(Inference):
    """Everything that an evaluation is told."""

    data: Annotated[
        Path | None, "folder of COCO, YOLO, labelme, Pascal VOC, VIA or label maps, or its data.yaml", "ROOT"
    ] = None
    split: Annotated[str, "which part of it"] = "val"
    annotations: Annotated[Path | None, "annotation file, instead of the one in ROOT"] = None
    images: Annotated[Path | None, "folder of its pictures"] = None
    limit: Annotated[int | None, "only the first N pictures", "N"] = None
    score: Annotated[float, "leave out what is scored lower (default: the model's, 0.001)"] = 0.0
    stage: Annotated[
        Literal["1", "2", "3", "all"] | None, "one stage alone instead of the ensemble; all: each, then that"
    ] = None
    box_areas: Annotated[bool, "small, medium, large masks by their boxes' area, as in the paper"] = False
    max_dets: Annotated[int, "detections that count in a picture and class; COCO's protocol has 100", "N"] = (
        coco.MAX_DETECTIONS
    )
    report: Annotated[
        Path | None,
        "write a page there that shows how good it is, at what and after which stage, and its errors; evaluates all "
        "stages unless --stage names one",
        "DIR",
    ] = None
    out: Annotated[Path | None, "write metrics.json, results.bbox.json and results.segm.json there", "DIR"] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.limit is not None:
            check_count("--limit", self.limit)
        check_score("--score", self.score)
        check_count("--max-dets", self.max_dets, most=MOST_DETECTIONS)

    def dataset(self) -> CocoDataset:
        """The pictures and what is in them."""
        return CocoDataset(
            self.data,
            self.split,
            annotations=self.annotations,
            images=self.images,
            semantic="none",
            keep_empty=True,
        )

    def load(self, device: str | None = None) -> Predicting:
        """What predicts; it gives as many objects as count where these are more than COCO's 100."""
        model = super().load(device)
        if self.detections is None:
            model.config = replace(model.config, detections=coco.detections_for(model, self.max_dets))
        return model


def main() -> int:
    """Evaluate, as the options say."""
    evaluate(parse(EvaluationRun, "evaluate", ABOUT))
    return 0


def evaluate(run: EvaluationRun) -> dict[str, dict | None]:
    """Evaluate, print tables, write results.

    returns  what metrics.json holds: "ensemble" or "stage 1", ... -> metrics, per_class, pictures; empty in processes
             that are not the main one
    """
    dataset = run.dataset()
    if run.out:
        names = (
            f"results{stage}.{kind}" for stage in ("", ".stage1", ".stage2", ".stage3") for kind in ("bbox", "segm")
        )
        check_kept(dataset.path, run.out, ["metrics.json", *(f"{name}.json" for name in names)])
    if run.report:
        check_report(run.report, dataset)
    if run.device is not None:
        find_device(run.device)
    world = distributed.start(run.device)
    try:
        model = run.load(str(world.device))
        # The model's labels count: the file may number, order or choose the classes in another way.
        dataset = dataset.relabelled(names_for(model.config, dataset.annotations, dataset.path.name))
        report: dict[str, dict | None] = {}
        scored: dict[str, coco.Scores] = {}
        for stage in stages_asked(run, model):
            found = coco.gather(predictions(run, model, dataset, stage, world))
            if world.is_main:
                conclude(run, dataset, found, stage, report, scored)
        if run.report and world.is_main:
            explain(run, model.config.name, dataset, found, scored)
    finally:
        distributed.stop()
    return report


def check_report(folder: Path, dataset: CocoDataset) -> None:
    """raises  UserError where there is nothing to report, or no place for it: before long work, not after it"""
    if not dataset.annotations.labelled:
        raise UserError(
            f"{dataset.path} has no annotations, so a report has no truth to show errors against: leave out --report, "
            "and --out writes the predictions."
        )
    check_kept(dataset.path, folder, (evaluation.PAGE, evaluation.NUMBERS), "--report")
    check_writable(folder, "--report")


def stages_asked(run: EvaluationRun, model: Predicting) -> list[int | None]:
    """Stages to evaluate, None: the ensemble. An ONNX file keeps those that it was exported with."""
    if run.stage not in (None, "all"):
        return [int(run.stage)]
    count = stages_of(model)
    alone = run.stage is None and (run.report is None or count == 1 or isinstance(model, OnnxDetector))
    return [None] if alone else [*range(1, count + 1), None]


def predictions(
    run: EvaluationRun, model: Predicting, dataset: CocoDataset, stage: int | None, world: distributed.World
) -> dict[int, Instances]:
    """This process's share of the predictions."""
    with run.ready(model, stage) as form:
        return coco.collect(
            form,
            dataset,
            size=run.size,
            batch_size=run.batch_size,
            workers=run.workers,
            limit=run.limit,
            score_threshold=run.score,
            rank=world.rank,
            world=world.size,
            tiling=run.tiling,
        )


def conclude(
    run: EvaluationRun,
    dataset: CocoDataset,
    found: dict[int, Instances],
    stage: int | None,
    report: dict[str, dict | None],
    scored: dict[str, coco.Scores],
) -> None:
    """Write one evaluation's results, add its numbers to the report and write that; then print its tables.

    scored  gets the scores; curves, which are large, only the last ones keep
    """
    name = f"stage {stage}" if stage else "ensemble"
    if run.out:
        suffix = f".stage{stage}" if stage else ""
        for kind, content in zip(("bbox", "segm"), coco.results(dataset, found)):
            write_json(run.out / f"results{suffix}.{kind}.json", content)
    scores = None
    if dataset.annotations.labelled:
        scores = coco.score(dataset, found, box_areas=run.box_areas, max_detections=run.max_dets)
    numbers = None if scores is None else {"metrics": scores.metrics, "per_class": scores.per_class}
    report[name] = None if numbers is None else {**numbers, "pictures": len(found)}
    if run.out:
        write_json(run.out / "metrics.json", report)
    if scores is None:
        print(f"{dataset.path.name} has no annotations, so there is no AP: {len(found)} pictures predicted.")
    else:
        for each in scored.values():
            each.curves.clear()
        scored[name] = scores
        print(f"\n{name}, {len(found)} pictures")
        print(tables(scores))


def explain(
    run: EvaluationRun,
    name: str,
    dataset: CocoDataset,
    found: dict[int, Instances],
    scored: dict[str, coco.Scores],
) -> None:
    """Write the page of the last evaluation of a network of that name."""
    assert run.report is not None
    title = f"{name}: {' and '.join('/'.join(one.parts[-2:]) for one in run.weights)}"
    with writing(run.report, "--report"):
        made = evaluation.save(run.report, reports.report(dataset, found, scored, run.max_dets), title)
    print(f"\nhow it did, and on what: {made}")


def tables(scores: coco.Scores) -> str:
    """AP of boxes and masks, then by class, in percent; a dash where there was nothing to find."""
    whole = [[kind, *(scores.metrics[f"{kind}_{name}"] for name in NAMES)] for kind in ("box", "mask")]
    columns = ("box_AP", "box_AP50", "mask_AP", "mask_AP50")
    classes = [[name, *(values[column] for column in columns)] for name, values in scores.per_class.items()]
    return f"{_table(['', *NAMES], whole)}\n\n{_table(['class', *columns], classes)}"


def _table(head: list[str], rows: list[list]) -> str:
    head = [word.replace("_", " ") for word in head]
    cells = [[name, *(f"{100 * one:.1f}" if one >= 0 else "-" for one in values)] for name, *values in rows]
    return tabulate(
        cells, head, tablefmt="plain", colalign=("left", *["right"] * (len(head) - 1)), disable_numparse=True
    )


if __name__ == "__main__":
    entry.run(main)
