"""What the papers of HTC's descendants report, beside what we count: AP on COCO val2017, parameters, multiply-adds.

Nothing of ours stands in the APs: to train these takes days on many GPUs.
"""

import json
from dataclasses import dataclass

from benchmarks import stored
from benchmarks.tables.markdown import table
from htc_fast.models.weights import public

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


def _from_mmdetection(name: str) -> Row:
    """The best of the files that mmdetection publishes for a model."""
    best = public.find(public.BEST, name)
    return Row(best.box_ap, best.mask_ap, f"{best.epochs} epochs", "mmdetection")


SWIN = "72 epochs, ImageNet-22K", "Swin Transformer, Table 2c"
DETECTORS = "detectors_htc_r50_rfp", "detectors_htc_r50_sac", "detectors_htc_r50"
ROWS = {
    **{
        name: _from_mmdetection(name) for name in ("htc_r50", "scnet_r50", "scnet_r101", "scnet_x101_64x4d", *DETECTORS)
    },
    "htcpp_swin_b": Row(56.4, 49.1, *SWIN, 160, 1043),
    "htcpp_swin_l": Row(57.1, 49.5, *SWIN, 284, 1470),
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
