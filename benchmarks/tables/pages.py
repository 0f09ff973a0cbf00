"""Which table is made how, of which suites, and the pages and pictures that they stand in."""

import re
from pathlib import Path

from benchmarks import bars, curves, published, zoo
from benchmarks.tables import (
    build,
    company,
    costs,
    deploy,
    deploy_ap,
    evaluation,
    large_pictures,
    operators,
    predicted,
    processors,
    runs,
    training_cpu,
    tuned,
)
from benchmarks.tables.machines import chosen, device, gpu
from htc_fast.ablation import picture
from htc_fast.errors import choose
from htc_fast.profiling import chart

ROOT = Path(__file__).resolve().parents[2]
CONVOLUTIONS = "conv3x3_relu", "mask_flow", "mask_predict", "semantic_merge", "mask_branch"
BOXES = "propose", "refine", "detections"
MASKS = "mask_targets", "paste_masks", "encode_masks"
RUN_LENGTHS = (
    "encode_logits", "encode_prototypes", "encode", "decode", "rle", "rasterize", "rle_to_polygons", "mask_iou",
    "mask_nms", "training_masks", "masks_pipelines",
)  # fmt: skip
OPERATORS = "roi_align", "pr_roi_pool", "nms", "soft_nms", *BOXES, *MASKS, *CONVOLUTIONS
DETECTORS = "htc", "cascade_mask", "mask_rcnn"
ACCELERATED = "accelerate", "accelerate_detectron2", "accelerate_mmdetection"  # other libraries' detectors
# Name of a table -> how it is made, of which suites.
TABLES = {
    "summary": (operators.summary, *OPERATORS, *DETECTORS),
    "gpu": (gpu, *OPERATORS, *DETECTORS),
    "roi_align": (operators.operators, "roi_align"),
    "pr_roi_pool": (operators.operators, "pr_roi_pool"),
    "nms": (operators.operators, "nms", "soft_nms"),
    "boxes": (operators.operators, *BOXES),
    "masks": (operators.operators, *MASKS),
    "run_lengths": (operators.operators, *RUN_LENGTHS),
    "masks_memory": (operators.masks_memory, "masks_memory"),
    "masks_data": (operators.operators, "masks_pipelines"),
    "matrix": (operators.operators, *CONVOLUTIONS),
    **{f"operator:{name}": (operators.line, name) for name in (*OPERATORS, *RUN_LENGTHS[:-2]) if name != "rle"},
    "model": (operators.models, *DETECTORS),
    "accelerate": (operators.operators, *ACCELERATED),
    "profile": (runs.profile, "profile"),
    "kernels": (runs.kernels, "kernels"),
    "predicted": (predicted.predicted, "kernels", *OPERATORS),
    "tried": (predicted.tried, "tried"),
    "sweep": (runs.sweep, "sweep"),
    "training": (runs.training, "training"),
    "training_speed": (runs.training_speed, "training_speed"),
    "trained": (runs.trained, "trained"),
    "ablation": (runs.ablation, "ablation"),
    "target_memory": (runs.target_memory, "target_memory"),
    "large_pictures": (large_pictures.large_pictures, "large_pictures"),
    "descendants": (runs.descendants, "descendants"),
    "precision": (runs.precision, "precision"),
    "deploy_ap": (deploy_ap.deploy_ap, "deploy_ap"),
    "soak": (runs.soak, "soak", "soak_optimized"),
    "evaluation": (evaluation.evaluation, "evaluation"),
    "deploy": (deploy.deploy, "deploy"),
    "processors": (processors.processors, "processors"),
    "company": (company.company, "company"),
    "training_cpu": (training_cpu.training_cpu, "training_cpu"),
    "buckets": (runs.buckets, "buckets"),
    "build": (build.build, "build"),
    "tiles": (tuned.tuned, "tiles"),
    "costs": (costs.counted,),
    "launches": (costs.launches,),
    "roi_reads": (costs.roi_reads,),
    "zoo": (zoo.models, "zoo"),
    "published": (published.descendants,),
}
# Pictures of docs -> who draws them, of which suite; the first device's.
PICTURES = {
    "profile.png": (chart.draw, "profile"),
    "sweep.png": (curves.draw, "sweep"),
    "kernels.png": (bars.draw, "kernels"),
    "ablation.png": (picture.draw, "ablation"),
}


def texts() -> list[Path]:
    """README.md and docs/*.md."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def fill(text: str) -> str:
    """A page with every table made anew; one that cannot be made here stays.

    raises  UserError if it asks for a table that there is not
    """

    def one(found: re.Match) -> str:
        make, *suites = TABLES[choose(found[1], TABLES, "table")]
        made = make(tuple(suites))
        return found[0] if made is None else f"<!-- bench:{found[1]} -->\n{made}\n<!-- /bench -->"

    return re.sub(r"<!-- bench:([\w:]+) -->.*?<!-- /bench -->", one, text, flags=re.DOTALL)


def refresh(write: bool) -> list[str]:
    """Names of the pages and pictures that show other results than the stored ones; write: make those anew."""
    stale = []
    for path in texts():
        text = path.read_text()
        filled = fill(text)
        if filled != text:
            stale.append(path.relative_to(ROOT).as_posix())
            if write:
                path.write_text(filled)
    for name, (draw, suite) in PICTURES.items():
        for result in [results[suite] for results in chosen((suite,))][:1]:
            if drawn_from(ROOT / "docs" / name) != chart.digest(result):
                stale.append(f"docs/{name}")
                if write:
                    draw(result, ROOT / "docs" / name)
    return stale


def drawn_from(path: Path) -> str | None:
    """The digest of the results that a picture was drawn from."""
    from PIL import Image

    return Image.open(path).info.get("Source") if path.exists() else None


def devices() -> list[str]:
    """Whose results each table shows, in a line."""
    lines = []
    for name, (_, *suites) in TABLES.items():
        named = [device(results) for results in chosen(tuple(suites))]
        if suites and ":" not in name:
            lines.append(f"{name}: {', '.join(named) or 'nothing measured by device'}")
    return lines
