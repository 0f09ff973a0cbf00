"""Every model by name: parameters and operations as counted, beside the AP that the paper reports.

    python -m benchmarks.zoo     counts every model anew (minutes) and writes benchmarks/results/zoo.json

Nothing is measured and nothing is trained: parameters and operations follow from the shapes of an input of 800×1344.
"""

import json
from typing import Any

import torch

import htc_fast
from benchmarks import stored
from benchmarks.tables.markdown import table
from htc_fast.models import zoo
from htc_fast.models.config import Model
from htc_fast.profiling.paper import SIZE, counted

FILE = "zoo.json"
# Mask AP of Tables 1 and 7 on test-dev, of the others on val2017. Table 8 is quoted from memory: within 0.1.
PAPER: dict[str, list[tuple[str, float]]] = {
    "mask_rcnn_r50": [("1", 35.6), ("3", 35.1)],
    "panet_r50": [("1", 36.6)],
    "cascade_mask_r50": [("1", 36.9), ("2, 3, 5", 36.5)],
    "cascade_mask_r101": [("1", 38.4)],
    "cascade_mask_x101_64x4d": [("1", 40.1)],
    "htc_r50": [("1, 7", 38.4), ("2, 6, 8", 38.0)],
    "htc_r101": [("1", 39.7)],
    "htc_x101_64x4d": [("1", 41.2)],
    "mask_rcnn_r50_interleaved": [("3", 35.6)],
    "cascade_mask_r50_interleaved": [("2, 3, 4", 36.7)],
    "htc_r50_nosem": [("2, 4", 37.4)],
    "cascade_mask_r50_sem_none": [("5", 37.1)],
    "cascade_mask_r50_sem_bbox": [("5", 37.3)],
    "cascade_mask_r50_sem_mask": [("5", 37.4)],
    "cascade_mask_r50_sem_both": [("5", 37.5)],
    "htc_r50_beta0.5": [("6", 37.9)],
    "htc_r50_beta2": [("6", 37.9)],
    "htc_r50_beta3": [("6", 37.8)],
    "htc_r50_dcn": [("7", 39.5)],
    "htc_r50_dcn_syncbn": [("7", 40.7)],
    "htc_r50_dcn_syncbn_mstrain": [("7", 42.5)],
    "htc_senet154_dcn_syncbn_mstrain": [("7", 44.3)],
    "htc_winner": [("7", 45.3)],
    "htc_r50_aspp": [("8", 38.1)],
    "htc_r50_pafpn": [("8", 38.1)],
    "htc_r50_gcn": [("8", 37.9)],
    "htc_r50_prroipool": [("8", 37.9)],
    "htc_r50_softnms": [("8", 38.3)],
}


def count(name: str) -> dict[str, float]:
    """Millions of parameters, and GFLOP of one input of 800×1344."""
    with torch.device("meta"):
        model = htc_fast.create_model(name)
    parameters = sum(one.numel() for one in model.parameters())
    return {"parameters": parameters, "flop": sum(need.flop for need in counted(name).values())}


def models(suites: tuple[str, ...] = ()) -> str:
    """One row per model that can be named."""
    numbers = json.loads((stored.RESULTS / FILE).read_text())
    rows = [_row(name, numbers[name]) for name in sorted(numbers, key=_place)]
    height, width = SIZE
    head = ["name", "what", "parameters, M", f"GFLOP at {height}×{width}", "the paper's mask AP (table)"]
    return table(head, rows, words=2)


def _row(name: str, one: dict[str, Any]) -> list[str]:
    reported = "; ".join(f"{ap:.1f} ({number})" for number, ap in PAPER.get(name, [])) or "–"
    parameters, flop = f"{one['parameters'] / 1e6:.1f}", f"{one['flop'] / 1e9:.0f}"
    return [f"`{name}`", described(zoo.MODELS[name]), parameters, flop, reported]


def described(config: Model) -> str:
    """What a model is made of, in words."""
    stages = len(config.stages.match_iou)
    kind = "HTC" if config.information_flow else "Cascade Mask R-CNN" if stages > 1 else "Mask R-CNN"
    kind = "PANet" if config.mask_fc and config.adaptive_pooling and stages == 1 else kind
    words = [kind, config.backbone]
    if config.information_flow and config.semantic == "none":
        words.append("no semantic branch")
    if not config.information_flow and config.semantic != "none":
        words.append(f"semantic branch ({config.semantic})")
    if not config.information_flow and config.interleaved:
        words.append("interleaved")
    if config.semantic_loss_weight != 1:
        words.append(f"β {config.semantic_loss_weight:g}")
    if config.dcn:
        words.append("deformable " + ", ".join(f"res{stage}" for stage in config.dcn))
    words += [word for word, on in _switches(config).items() if on]
    return ", ".join(words)


def _switches(config: Model) -> dict[str, bool]:
    return {
        "synchronised batch norms, 4conv1fc": config.norm == "syncbn" and config.box_head == "4conv1fc",
        "trained at 400 to 1400 pixels": config.train_sizes is not None,
        "guided anchoring": config.rpn.guided,
        "ASPP": config.aspp,
        "PAFPN": config.neck == "pafpn" and not config.mask_fc,
        "GCN": config.gcn,
        "PrRoIPool": config.roi_pooling == "pr_roi_pool",
        "soft-NMS": config.soft_nms,
    }


def _place(name: str) -> tuple:
    """Models of one kind side by side, the paper's first table first."""
    kinds = "mask_rcnn", "panet", "cascade_mask", "htc"
    return next(place for place, kind in enumerate(kinds) if name.startswith(kind)), *_order(name)


def _order(name: str) -> tuple:
    return zoo.MODELS[name].backbone != "resnet50", list(zoo.MODELS).index(name)


def main() -> None:
    found = {}
    for name in htc_fast.list_models():
        found[name] = count(name)
        print(f"{name}: {found[name]['parameters'] / 1e6:.1f} M, {found[name]['flop'] / 1e9:.0f} GFLOP", flush=True)
    (stored.RESULTS / FILE).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
