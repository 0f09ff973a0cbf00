"""Fill the README's tables from benchmarks/results.

python scripts/bench_tables.py            write them between <!-- bench:NAME --> and <!-- /bench -->
python scripts/bench_tables.py --check    fail if README.md and the results disagree
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from htc_fast.profiling.report import in_order, label  # noqa: E402

README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
UNMEASURED = "not measured"


def stored(suite: str) -> list[dict]:
    """Every device's results of a suite, CPUs first."""
    found = [json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"*/{suite}.json"))]
    return sorted(found, key=lambda result: "nvidia" in result["machine"]["device"])


def milliseconds(value: float) -> str:
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}" if value < 10 else f"{value:.0f}"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def caption(result: dict) -> str:
    machine, limits = result["machine"], result["limits"]
    words = ", ".join(f"{rate:g} {name}" for name, rate in limits.items())
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "torchvision") if name in machine)
    return f"{machine['device']}, {machine['date']}, {versions}; measured limits: {words}"


def operators(suite: str) -> str:
    """Case, ours, rival, ratio: one table per device."""
    blocks = []
    for result in stored(suite):
        rows = []
        for row in result["rows"]:
            times = row["milliseconds"]
            if "htc_fast" not in times:
                continue
            rivals = [f"{who}: {milliseconds(entry['median'])}" for who, entry in times.items() if who != "htc_fast"]
            ratios = [f"{ratio:.1f}×" for ratio in row["ratio"].values()]
            case = row["case"] + ("" if row["dtype"] == "float32" else f", {row['dtype']}")
            rows.append(
                [case, milliseconds(times["htc_fast"]["median"]), "; ".join(rivals) or "–", "; ".join(ratios) or "–"]
            )
        blocks.append(table(["", "htc_fast, ms", "rival, ms", "ratio"], rows) + f"\n\n{caption(result)}")
    return "\n\n".join(blocks + gpu_missing(suite))


def gpu_missing(suite: str) -> list[str]:
    return [] if any("nvidia" in one["machine"]["device"] for one in stored(suite)) else [f"On a GPU: {UNMEASURED}."]


def models(suite: str) -> str:
    """Seconds per picture, one row per network."""
    blocks = []
    for result in stored(suite):
        names = dict.fromkeys(row["case"] for row in result["rows"])
        times = {(row["case"], row["dtype"]): next(iter(row["milliseconds"].values())) for row in result["rows"]}
        rows = []
        for name in names:
            found = [times.get((name, dtype)) for dtype in ("float32", "bfloat16")]
            rows.append([name, *(f"{one['median'] / 1e3:.2f}" if one else "–" for one in found)])
        blocks.append(table(["800×1333, one picture", "fp32, s", "bf16, s"], rows) + f"\n\n{caption(result)}")
    return "\n\n".join(blocks + gpu_missing(suite))


def profile(suite: str) -> str:
    """Images per second and share of the limit beside the paper's; then HTC's parts."""
    blocks = []
    for result in stored(suite):
        rows = []
        for row in result["rows"]:
            paper, taken = result["paper"].get(row["case"]), f"{row['images_per_second']:.2f}"
            published = [f"{paper['fps']:g}", f"{paper['share']:.0%}"] if paper else ["–", "–"]
            share = [f"{row['gflop']:.0f}", milliseconds(row["limit_ms"]), f"{row['share']:.0%}"]
            who = [row["case"], f"{row['mode']}, {short(row['dtype'])}"]
            rows.append([*who, taken, milliseconds(row["ms"]), *share, *published])
        setting = result["setting"]
        head = [f"{setting['size'][0]}×{setting['size'][1]}, batch {setting['batch_size']}", "", "img/s", "ms", "GFLOP",
                "limit, ms", "reached", "paper, fps", "of its card's limit"]  # fmt: skip
        absent = "; ".join(f"{who}: absent ({reason})" for who, reason in result["absent"].items())
        blocks += [table(head, rows), parts(result, "htc_r50"), "\n\n".join(filter(None, (absent, caption(result))))]
    return "\n\n".join(blocks + gpu_missing(suite))


def parts(result: dict, case: str) -> str:
    """A model's parts, its runs side by side: milliseconds and the share of the limit."""
    runs = [row for row in result["rows"] if row["case"] == case]
    if not runs:
        return f"{case}: {UNMEASURED}."
    rows = []
    for name in in_order(runs[0]["parts"]):
        found = [row["parts"].get(name) for row in runs]
        cells = [f"{milliseconds(one['ms'])} ({one['share'] or 0:.0%})" if one else "–" for one in found]
        first = runs[0]["parts"][name]
        rows.append([label(name, runs[0]["parts"]), f"{first['gflop']:.1f}", f"{first['mb']:.0f}", *cells])
    titles = [f"{row['mode']} {short(row['dtype'])}, ms (of limit)" for row in runs]
    return table([case, "GFLOP", f"MB, {short(runs[0]['dtype'])}", *titles], rows)


def short(dtype: str) -> str:
    return dtype.replace("bfloat", "bf").replace("float", "fp")


def sweep(suite: str) -> str:
    """How cost grows, one line per curve."""
    blocks = []
    for result in stored(suite):
        rows = []
        for one in result["curves"]:
            sizes, times = one["sizes"], [milliseconds(one["milliseconds"][at]) for at in (0, -1)]
            ends = [f"{sizes[0]} – {sizes[-1]}", " – ".join(times), f"{one['exponent']:.2f}"]
            rows.append([one["what"], one["over"], *ends])
        machine = result["machine"]
        blocks.append(table(["", "over", "sizes", "ms", "exponent"], rows)
                      + f"\n\n{machine['device']}, {machine['date']}, torch {machine['torch']}")  # fmt: skip
    return "\n\n".join(blocks + gpu_missing(suite))


def precision(suite: str) -> str:
    """What 16 bits cost: AP, and how many of fp32's detections come out again."""
    blocks = []
    for result in stored(suite):
        keys = [key for key in result["rows"][0] if key.endswith(("AP", "AP50"))]
        rows = [
            [row["computed in"], *(f"{row[key]:.4f}" for key in keys), f"{row['matched']:.1%} of {row['of']}",
             f"{row['scores apart']:.4f}"] for row in result["rows"]
        ]  # fmt: skip
        matched = f"of score ≥ {result['score']} matched, IoU ≥ {result['iou']}"
        machine = result["machine"]
        caption = f"{result['model']} over {result['backbone']}, {result['pictures']} pictures, {machine['device']}, "
        caption += f"{machine['date']}, torch {machine['torch']}" + (f"; {result['note']}" if result["note"] else "")
        blocks.append(table(["", *keys, matched, "scores apart"], rows) + f"\n\n{caption}")
    return "\n\n".join(blocks + gpu_missing(suite))


def soak(suite: str) -> str:
    """Memory over a long `predict`, as it is and optimized."""
    found = [(how, one) for how in ("soak", "soak_optimized") for one in stored(how)]
    keys = ("pictures", "broken", "instances", "MB after a tenth", "MB at the end", "MB at most")
    words = {"soak": "as it is", "soak_optimized": "optimised"}
    rows = [[words[how], *(f"{one[key]:g}" for key in keys)] for how, one in found]
    if not rows:
        return UNMEASURED
    machine = found[-1][1]["machine"]
    head = table(["predict", *keys], rows)
    return f"{head}\n\n{machine['device']}, {machine['date']}, torch {machine['torch']}"


def buckets(suite: str) -> str:
    """Peak memory per input shape."""
    blocks = []
    for result in stored(suite):
        types = list(result["rows"][0]["MB"])
        rows = [[f"{row['batch']} × {row['height']}×{row['width']}", *(f"{row['MB'][one]:.0f}" for one in types)]
                for row in result["rows"]]  # fmt: skip
        machine = result["machine"]
        words = f"{result['what']}; {machine['device']}, {machine['date']}, torch {machine['torch']}"
        blocks.append(table(["htc_r50, optimised", *(f"{short(one)}, MB" for one in types)], rows) + f"\n\n{words}")
    return "\n\n".join(blocks + gpu_missing(suite))


def training(suite: str) -> str:
    """What a run reached, beside its rival."""
    path = RESULTS / f"{suite}.json"
    if not path.exists():
        return UNMEASURED
    result = json.loads(path.read_text())
    rows = [
        [who, str(one["images"]), *(f"{one[name]:.3f}" for name in ("mask_AP", "mask_AP50", "mask_AP75"))]
        for who, one in result["runs"].items()
    ]
    head = ["30 minutes, two cores", "images seen", "mask AP", "AP50", "AP75"]
    return table(head, rows) + f"\n\n{result['note']}"


TABLES = {"roi_align": operators, "pr_roi_pool": operators, "nms": operators, "masks": operators, "model": models,
          "profile": profile,
          "sweep": sweep, "training": training, "precision": precision, "soak": soak, "buckets": buckets}  # fmt: skip


def fill(text: str) -> str:
    """README.md with every table made anew."""

    def one(found: re.Match) -> str:
        make = TABLES.get(found[1])
        if make is None:
            raise SystemExit(f"README.md asks for a table {found[1]!r}: known are {', '.join(TABLES)}")
        return f"<!-- bench:{found[1]} -->\n{make(found[1])}\n<!-- /bench -->"

    return re.sub(r"<!-- bench:(\w+) -->\n.*?<!-- /bench -->", one, text, flags=re.DOTALL)


def main() -> int:
    text = README.read_text()
    filled = fill(text)
    if "--check" in sys.argv:
        print("README.md and benchmarks/results agree" if filled == text else "README.md is stale: make bench-tables")
        return int(filled != text)
    README.write_text(filled)
    return 0


if __name__ == "__main__":
    sys.exit(main())
