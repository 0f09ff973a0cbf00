"""What the papers of HTC's descendants report, beside what we count: AP on COCO val2017, parameters, multiply-adds.

Nothing of ours stands in the APs: to train these takes days on many GPUs.
"""

import json
from dataclasses import dataclass

from benchmarks import stored
from benchmarks.tables.markdown import table

FILE = "zoo.json"
SIZE = (800, 1280)  # at which multiply-adds are published


@dataclass(frozen=True)
class Row:
    """One published model.

    box, mask     AP on val2017, in percent
    trained       how long, and what else the numbers depend on
    source        paper or repository that reports them
    parameters    millions; None: not reported
    multiplies    10⁹ multiply-adds of 800×1280; None: not reported
    """

    box: float
    mask: float
    trained: str
    source: str
    parameters: float | None = None
    multiplies: float | None = None


ROWS = {
    "htc_r50": Row(43.3, 38.3, "20 epochs", "mmdetection"),
    "scnet_r50": Row(44.5, 40.0, "20 epochs", "mmdetection"),
    "scnet_r101": Row(45.8, 40.9, "20 epochs", "mmdetection"),
    "scnet_x101_64x4d": Row(47.5, 42.3, "20 epochs", "mmdetection"),
    "detectors_htc_r50_rfp": Row(46.6, 40.9, "12 epochs", "mmdetection"),
    "detectors_htc_r50_sac": Row(46.4, 40.9, "12 epochs", "mmdetection"),
    "detectors_htc_r50": Row(49.1, 42.6, "12 epochs", "mmdetection"),
    "htcpp_swin_b": Row(56.4, 49.1, "72 epochs, ImageNet-22K", "Swin Transformer, Table 2c", 160, 1043),
    "htcpp_swin_l": Row(57.1, 49.5, "72 epochs, ImageNet-22K", "Swin Transformer, Table 2c", 284, 1470),
}


def descendants(suites: tuple[str, ...] = ()) -> str:
    """One row per published model."""
    counted = json.loads((stored.RESULTS / FILE).read_text())
    lines = []
    for name, row in ROWS.items():
        ours = counted[name]
        sizes = f"{ours['parameters'] / 1e6:.1f} / {_shown(row.parameters)}"
        work = f"{ours['multiply-adds'] / 1e9:.0f} / {_shown(row.multiplies)}"
        lines.append([f"`{name}`", f"{row.trained}; {row.source}", f"{row.box:.1f} / {row.mask:.1f}", sizes, work])
    height, width = SIZE
    head = ["name", "published: trained; source", "box / mask AP", "parameters, M: ours / published"]
    return table([*head, f"10⁹ multiply-adds at {height}×{width}: ours / published"], lines, words=2)


def _shown(number: float | None) -> str:
    return "–" if number is None else f"{number:g}"
