"""Starting from a file's weights: what fits is loaded, and only the last layers may be of other classes."""

import sys
from pathlib import Path

from htc_fast.data.classes import default_classes, near_misses
from htc_fast.data.coco import CocoDataset
from htc_fast.data.semantic import Derived
from htc_fast.detector import Detector
from htc_fast.errors import UserError, few
from htc_fast.models.weights import rows, source
from htc_fast.models.weights.fit import is_seesaw, modules
from htc_fast.models.weights.load import Weights, load_weights, read


def start_from(model: Detector, weights: str | Path, train: CocoDataset) -> None:
    """Load what fits: of the last layers, the rows of the classes that the file has too; others stay fresh.

    So do guided anchors, where the file has plain ones: the rest is fine-tuned on what they propose. What Seesaw Loss
    counts begins at zero, as it is of the data.

    raises  UserError if anything else differs
    """
    file = read(source.local(weights, model.config.name))
    classes = _match_classes(file, model, train)
    starts = model.config.rpn.guided and "rpn" not in modules(file.tensors)
    fresh = {key for key in model.state_dict() if starts and key.startswith("rpn.")}
    kept = [key for key in file.tensors if key not in fresh and not key.endswith(".classes.counts")]
    file.tensors = {key: file.tensors[key] for key in kept}
    report = load_weights(model, file, strict=False)
    report.missing = [key for key in report.missing if key not in fresh]
    anchors = "; its RPN has fixed anchors, so the one that guides them starts fresh" if fresh else ""
    last = ("classes", "deltas", "logits")
    foreign = [key for key in report.wrong_shape if key.split(" ")[0].split(".")[-2] not in last]
    if report.missing or foreign:
        raise UserError(
            f"{weights} holds weights of another architecture than {model.config.name} on {model.config.backbone} "
            f"({report}): choose --model, --backbone and --set as the file was trained with."
        )
    print(f"{weights}: {report}{anchors}{classes}", file=sys.stderr)


def _match_classes(file: Weights, model: Detector, train: CocoDataset) -> str:
    """Bring the rows of a file's classes to where the model has these classes; returns what there is to say of it."""
    new, count = train.classes, file.num_classes or 0
    old, coco = list(file.described(count).get("class_names", ())), default_classes(count)[0]
    if not old and count == 80 and set(new) & set(coco):
        old = list(coco)
    in_order = not old and count == len(new)
    if not old and not in_order:
        return ""
    said, old = ["it names no classes, so they are taken in their order"] if in_order else [], old or new
    if is_seesaw(file.tensors) != (model.config.class_loss == "seesaw"):
        said.append("its class_loss is another, so background and objectness start fresh")
    file.tensors = rows.moved(file.tensors, model.state_dict(), old, new, isinstance(train.maps, Derived))
    if old == new:
        return "".join(f"; {one}" for one in said)
    both, fresh = [one for one in new if one in old], [one for one in new if one not in old]
    parts = [f"{few(both)} from the file"] if both else []
    parts += [f"{few(fresh)} start fresh{near_misses(fresh, old)}"] if fresh else []
    return "".join(f"; {one}" for one in [*said, f"classes by name: {', '.join(parts)}"])
