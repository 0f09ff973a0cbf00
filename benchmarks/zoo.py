"""Every model by name: parameters and operations as counted, beside the AP that the paper reports.

    python -m benchmarks.zoo     counts every model anew (minutes) and writes benchmarks/results/zoo.json

Nothing is measured and nothing is trained: parameters and operations follow from the shapes of an input of 800×1344.
"""

import json
from typing import Any

import torch

import htc_fast
from benchmarks import published, stored
from benchmarks.tables.markdown import table
from htc_fast.ablation.tables import TABLES, Row
from htc_fast.models import zoo
from htc_fast.models.config import Model
from htc_fast.profiling.paper import SIZE, counted

FILE = "zoo.json"
# The paper's mask AP: Tables 1 and 7 on test-dev; Table 8, quoted from memory within 0.1, on val2017 as Tables 2 to 6.
APART: dict[int, dict[str, float]] = {
    1: {
        "mask_rcnn_r50": 35.6,
        "panet_r50": 36.6,
        "cascade_mask_r50": 36.9,
        "cascade_mask_r101": 38.4,
        "cascade_mask_x101_64x4d": 40.1,
        "htc_r50": 38.4,
        "htc_r101": 39.7,
        "htc_x101_64x4d": 41.2,
    },
    7: {
        "htc_r50": 38.4,
        "htc_r50_dcn": 39.5,
        "htc_r50_dcn_syncbn": 40.7,
        "htc_r50_dcn_syncbn_mstrain": 42.5,
        "htc_senet154_dcn_syncbn_mstrain": 44.3,
        "htc_winner": 45.3,
    },
    8: {
        "htc_r50": 38.0,
        "htc_r50_aspp": 38.1,
        "htc_r50_pafpn": 38.1,
        "htc_r50_gcn": 37.9,
        "htc_r50_prroipool": 37.9,
        "htc_r50_softnms": 38.3,
    },
}


def reported(name: str) -> dict[float, list[int]]:
    """The paper's mask AP for a model -> the tables that it stands in."""
    rows = [(number, one[name]) for number, one in APART.items() if name in one]
    for one in TABLES.values():
        column = one.columns.index("mask AP")
        rows += [(one.number, row.paper[column]) for row in one.rows if row.model == name and _whole(row)]
    found: dict[float, list[int]] = {}
    for number, ap in sorted(rows):
        found.setdefault(ap, []).append(number)
    return found


def _whole(row: Row) -> bool:
    return row.stage is None and bool(row.paper)


def count(name: str) -> dict[str, float]:
    """Parameters, and operations of one input of 800×1344; multiply-adds of the size at which others report them."""
    with torch.device("meta"):
        model = htc_fast.create_model(name)
    parameters = sum(one.numel() for one in model.parameters())
    found = {"parameters": parameters, "flop": sum(need.flop for need in counted(name).values())}
    if name in published.ROWS:
        found["multiply-adds"] = sum(need.flop for need in counted(name, published.SIZE).values()) / 2
    return found


def models(suites: tuple[str, ...] = ()) -> str:
    """One row per model that can be named."""
    numbers = json.loads((stored.RESULTS / FILE).read_text())
    rows = [_row(name, numbers[name]) for name in sorted(numbers, key=_place)]
    height, width = SIZE
    head = ["name", "what", "parameters, M", f"GFLOP at {height}×{width}", "the paper's mask AP (table)"]
    return table(head, rows, words=2)


def _row(name: str, one: dict[str, Any]) -> list[str]:
    aps = [f"{ap:.1f} ({', '.join(map(str, numbers))})" for ap, numbers in reported(name).items()]
    parameters, flop = f"{one['parameters'] / 1e6:.1f}", f"{one['flop'] / 1e9:.0f}"
    return [f"`{name}`", described(zoo.MODELS[name]), parameters, flop, "; ".join(aps) or "–"]


def described(config: Model) -> str:
    """What a model is made of, in words."""
    stages = len(config.stages.match_iou)
    kind = "HTC" if config.information_flow else "Cascade Mask R-CNN" if stages > 1 else "Mask R-CNN"
    kind = "PANet" if config.mask_fc and config.adaptive_pooling and stages == 1 else kind
    kind = "SCNet" if config.sample_consistency else kind
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
        "SyncBN 4conv1fc, GIoU": config.box_norm == "syncbn" and config.box_loss == "giou",
        "recursive pyramid": config.fpn_steps > 1,
        "switchable atrous convolutions": bool(config.sac),
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
    kinds = "mask_rcnn", "panet", "cascade_mask", "htc_", "scnet", "detectors_htc", "htcpp"
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
