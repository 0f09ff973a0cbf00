"""Fill the README's tables from benchmarks/results.

python scripts/bench_tables.py            write them between <!-- bench:NAME --> and <!-- /bench -->, draw docs/*.png
python scripts/bench_tables.py --check    fail if README.md or a picture and the results disagree

Where results of several devices are stored, a table shows those of the CPU and of the GPU that were measured last.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import curves  # noqa: E402
from htc_fast.profiling import chart, report  # noqa: E402
from htc_fast.profiling.chart import digest  # noqa: E402
from htc_fast.profiling.paper import FPS  # noqa: E402
from htc_fast.profiling.report import in_order, label  # noqa: E402

README, DOCS = ROOT / "README.md", ROOT / "docs"
RESULTS = ROOT / "benchmarks" / "results"
UNMEASURED = "not measured"


def chosen(suites: tuple[str, ...]) -> list[dict[str, dict]]:
    """Suite -> results, of one CPU and then of one GPU: the device where one of the suites was measured last.

    A suite that this device lacks is not taken from another: a table is one machine's.
    """
    devices: dict[str, dict[str, dict]] = {}
    for suite in suites:
        for path in sorted(RESULTS.glob(f"*/{suite}.json")):
            devices.setdefault(path.parent.name, {})[suite] = json.loads(path.read_text())
    last = lambda name: (max(one["machine"]["date"] for one in devices[name].values()), len(devices[name]), name)  # noqa: E731
    kinds = [name for name in devices if not on_gpu(name)], [name for name in devices if on_gpu(name)]
    return [devices[max(names, key=last)] for names in kinds if names]


def newest(suites: tuple[str, ...]) -> Path:
    """The folder of the first device whose results a table shows."""
    return RESULTS / next(iter(chosen(suites)[0].values()))["machine"]["device"]


def on_gpu(device: str) -> bool:
    return device.startswith("nvidia")


def blocks(suites: tuple[str, ...], make) -> str:
    """make(results) for each device, with its name below, and a word on the GPU that is missing.

    make  suite -> results of one device -> text
    """
    found = chosen(suites)
    made = [make(results) for results in found]
    devices = [next(iter(results.values()))["machine"]["device"] for results in found]
    made += [] if made and not on_gpu(devices[0]) else [f"On a CPU: {UNMEASURED}."]
    return "\n\n".join(made + ([] if any(map(on_gpu, devices)) else [f"On a GPU: {UNMEASURED}."]))


def milliseconds(value: float) -> str:
    return f"{value:.2g}" if value < 0.1 else f"{value:.2f}" if value < 10 else f"{value:.0f}"


def times(ratio: float) -> str:
    return f"{ratio:.0f}×" if ratio >= 100 else f"{ratio:.3g}×"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def caption(result: dict) -> str:
    machine, limits = result["machine"], result.get("limits", {})
    words = "; measured limits: " + ", ".join(f"{rate:g} {name}" for name, rate in limits.items()) if limits else ""
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "torchvision") if name in machine)
    days = sorted({machine["date"], *(row["date"] for row in result.get("rows", []) if "date" in row)})
    return f"{machine['device']}, {' to '.join(dict.fromkeys((days[0], days[-1])))}, {versions}{words}"


def operators(suites: tuple[str, ...]) -> str:
    """Case, ours, share of the limit, rivals; which operator it is where a table holds several."""
    named = len(suites) > 1
    return blocks(suites, lambda results: operators_of(results, named))


def operators_of(results: dict[str, dict], named: bool) -> str:
    quick = [result for result in results.values() if result.get("unit") == "microseconds"]
    results = {suite: result for suite, result in results.items() if result not in quick}
    if quick:
        return "\n\n".join([*map(gpu_operators, quick), *([operators_of(results, named)] if results else [])])
    found = [(suite, row) for suite, result in results.items() for row in result["rows"] if not row["full"]]
    lines = []
    for suite, row in found:
        (_, ours), *rivals = row["milliseconds"].items()
        others = [f"{who} {milliseconds(fastest(one))} ({times(row['ratio'][who])})" for who, one in rivals]
        case = (f"{suite}: " if named else "") + row["case"]
        case += "" if row["dtype"] == "float32" else f", {row['dtype']}"
        speed = next((f"{row[unit]:.3g} {unit}" for unit in ("TFLOP/s", "GB/s") if unit in row), "")
        share = f"{row['share of limit']:.0%}" if "share of limit" in row else ""
        lines.append([case, milliseconds(fastest(ours)), milliseconds(ours["spread"]), speed or "–", share or "–",
                      "; ".join(others) or "–"])  # fmt: skip
    head = ["", "htc_fast, ms", "±", "rate", "of limit", "others, ms (times ours)"]
    return table(head, lines) + "\n\n" + "\n\n".join(filter(None, (absent(found), captions(results))))


def gpu_operators(result: dict) -> str:
    """What benchmarks/gpu_ops.py stored: device times, each beside its limit and everyone else's."""
    rows = []
    for row in result["rows"]:
        found = row["times"]
        own, *rest = sorted(found, key=lambda who: [not who.startswith("htc_fast"), len(who)])
        mine, limit = found[own], row.get("limit")
        share = f"{limit / mine['device']:.0%}" if limit and mine.get("device") else "–"
        others = [(who, *beside(mine, found[who])) for who in rest]
        case = row["case"] + ("" if row["dtype"] == "float32" else f", {row['dtype']}")
        rows.append([case, taken(mine), share, "; ".join(f"{who}: {time}" for who, time, _ in others) or "–",
                     "; ".join(ratio for *_, ratio in others) or "–"])  # fmt: skip
    head = ["", "htc_fast, µs", "of limit", "others, µs", "ratio"]
    note = "µs on the device, in a replayed CUDA graph; with * of a call from Python, where one of both waits"
    return table(head, rows) + f"\n\n{caption(result)}; {note}"


def taken(time: dict) -> str:
    """Microseconds of one of those timed."""
    if "error" in time:
        return "failed"
    return f"{time['device']:.1f}" if time.get("device") else f"{time['call']:.1f}*"


def beside(mine: dict, other: dict) -> tuple[str, str]:
    """The other's microseconds, and how many times mine they are: device against device, or call against call."""
    if "error" in mine or "error" in other:
        return taken(other), "–"
    kind = "device" if mine.get("device") and other.get("device") else "call"
    return taken(other), f"{other[kind] / mine[kind]:.1f}×{'*' if kind == 'call' else ''}"


def absent(found: list[tuple[str, dict]]) -> str:
    """Who could not be measured, and why; not whose reason is a single case's."""
    reasons = {f"{who} ({why})": None for _, row in found for who, why in row["absent"].items()}
    return f"Absent: {', '.join(reasons)}." if reasons else ""


def captions(results: dict[str, dict]) -> str:
    """One line for all suites that one session measured."""
    return "\n\n".join(dict.fromkeys(caption(result) for result in results.values()))


def fastest(entry: dict[str, float]) -> float:
    return entry.get("graph", entry["median"])


def models(suites: tuple[str, ...]) -> str:
    """Seconds per picture, one row per network and mode."""
    return blocks(suites, models_of)


def models_of(results: dict[str, dict]) -> str:
    rows = [("", row) for result in results.values() for row in result["rows"] if not row["full"]]
    cells: dict[str, dict[str, tuple[float, float | None]]] = {}
    for _, row in rows:
        for who, one in row["milliseconds"].items():
            name = row["case"] if who == "htc_fast" else f"{who}, beside {row['case'].split(',')[0]}"
            share = row.get("share of limit") if who == "htc_fast" else None
            cells.setdefault(name, {})[row["dtype"]] = one["median"] / 1e3, share
    lines = []
    for name, by_dtype in cells.items():
        found = [by_dtype.get(dtype) for dtype in ("float32", "bfloat16")]
        words = [f"{one[0]:.3g}" + (f" ({one[1]:.0%})" if one[1] else "") if one else "–" for one in found]
        lines.append([name, *words])
    head = ["800×1333, one picture", "fp32, s (of limit)", "bf16, s (of limit)"]
    return table(head, lines) + "\n\n" + "\n\n".join(filter(None, (absent(rows), captions(results))))


def profile(suites: tuple[str, ...]) -> str:
    """Images per second and share of the limit beside the paper's; then HTC's parts."""
    return blocks(suites, lambda results: profile_of(results["profile"]))


def profile_of(result: dict) -> str:
    rows = []
    for row in result["rows"]:
        paper, taken = result["paper"].get(row["case"]), f"{row['images_per_second']:.2f}"
        published = [f"{paper['fps']:g}", f"{paper['share']:.0%}"] if paper else ["–", "–"]
        share = [f"{row['gflop']:.0f}", milliseconds(row["limit_ms"]), f"{row['share']:.0%}"]
        who = [row["case"], f"{row['mode']}, {short(row['dtype'])}"]
        rows.append([*who, taken, milliseconds(row.get("graph_ms", row["ms"])), *share, *published])
    setting = result["setting"]
    head = [f"{setting['size'][0]}×{setting['size'][1]}, batch {setting['batch_size']}", "", "img/s", "ms", "GFLOP",
            "limit, ms", "reached", "paper, fps", "of its card's limit"]  # fmt: skip
    absent = "; ".join(f"{who}: absent ({reason})" for who, reason in result["absent"].items())
    missing = [name for name in FPS if name not in {row["case"] for row in result["rows"]}]
    missing = f"{', '.join(missing)}: {UNMEASURED} here." if missing else ""
    slowest = [line.strip() for line in report.bottlenecks(result).splitlines() if "htc_r50, optimized" in line]
    next_ones = f"Most time above the limit: {'; '.join(slowest)}." if slowest else ""
    return "\n\n".join(filter(None, (table(head, rows), parts(result, "htc_r50"), next_ones, missing, absent,
                                     caption(result))))  # fmt: skip


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


def sweep(suites: tuple[str, ...]) -> str:
    """How cost grows, one line per curve."""
    return blocks(suites, lambda results: sweep_of(results["sweep"]))


def sweep_of(result: dict) -> str:
    rows = []
    for one in result["curves"]:
        sizes, times = one["sizes"], [milliseconds(one["milliseconds"][at]) for at in (0, -1)]
        ends = [f"{sizes[0]} – {sizes[-1]}", " – ".join(times), f"{one['exponent']:.2f}"]
        rows.append([one["what"], one["over"], *ends])
    return table(["", "over", "sizes", "ms", "exponent"], rows) + f"\n\n{caption(result)}"


def precision(suites: tuple[str, ...]) -> str:
    """What 16 bits cost: AP, and how many of fp32's detections come out again."""
    return blocks(suites, lambda results: precision_of(results["precision"]))


def precision_of(result: dict) -> str:
    keys = [key for key in result["rows"][0] if key.endswith(("AP", "AP50"))]
    rows = [
        [row["computed in"], *(f"{row[key]:.4f}" for key in keys), f"{row['matched']:.1%} of {row['of']}",
         f"{row['scores apart']:.4f}"] for row in result["rows"]
    ]  # fmt: skip
    matched = f"of score ≥ {result['score']} matched, IoU ≥ {result['iou']}"
    words = f"{result['model']} over {result['backbone']}, {result['pictures']} pictures, {caption(result)}"
    words += f"; {result['note']}" if result["note"] else ""
    return table(["", *keys, matched, "scores apart"], rows) + f"\n\n{words}"


def soak(suites: tuple[str, ...]) -> str:
    """Memory over a long `predict`, as it is and optimized."""
    return blocks(suites, soak_of)


def soak_of(results: dict[str, dict]) -> str:
    keys = ("pictures", "broken", "instances", "MB after a tenth", "MB at the end", "MB at most")
    words = {"soak": "as it is", "soak_optimized": "optimized"}
    rows = [[words[how], *(f"{one[key]:g}" for key in keys)] for how, one in results.items()]
    return table(["predict", *keys], rows) + "\n\n" + captions(results)


def buckets(suites: tuple[str, ...]) -> str:
    """Peak memory per input shape."""
    return blocks(suites, lambda results: buckets_of(results["buckets"]))


def buckets_of(result: dict) -> str:
    types = list(result["rows"][0]["MB"])
    rows = [[f"{row['batch']} × {row['height']}×{row['width']}", *(f"{row['MB'][one]:.0f}" for one in types)]
            for row in result["rows"]]  # fmt: skip
    head = ["htc_r50, optimized", *(f"{short(one)}, MB" for one in types)]
    return table(head, rows) + f"\n\n{result['what']}; {caption(result)}"


def training(suites: tuple[str, ...]) -> str:
    """What a run reached, beside its rival."""
    path = RESULTS / f"{suites[0]}.json"
    if not path.exists():
        return UNMEASURED
    result = json.loads(path.read_text())
    rows = [
        [who, str(one["images"]), *(f"{one[name]:.3f}" for name in ("mask_AP", "mask_AP50", "mask_AP75"))]
        for who, one in result["runs"].items()
    ]
    head = ["30 minutes, two cores", "images seen", "mask AP", "AP50", "AP75"]
    return table(head, rows) + f"\n\n{result['note']}"


# README's table -> how it is made, of which suites.
TABLES = {
    "roi_align": (operators, "roi_align"),
    "pr_roi_pool": (operators, "pr_roi_pool"),
    "nms": (operators, "nms", "soft_nms"),
    "masks": (operators, "paste", "encode", "masks"),
    "matrix": (operators, "conv3x3_relu", "mask_flow", "mask_predict", "semantic_merge", "mask_branch"),
    "model": (models, "htc", "cascade_mask", "mask_rcnn"),
    "profile": (profile, "profile"),
    "sweep": (sweep, "sweep"),
    "training": (training, "training"),
    "precision": (precision, "precision"),
    "soak": (soak, "soak", "soak_optimized"),
    "buckets": (buckets, "buckets"),
}
# Pictures of the README -> who draws them, of which suite; the first device's.
PICTURES = {"profile.png": (chart.draw, "profile"), "sweep.png": (curves.draw, "sweep")}


def fill(text: str) -> str:
    """README.md with every table made anew."""

    def one(found: re.Match) -> str:
        if found[1] not in TABLES:
            raise SystemExit(f"README.md asks for a table {found[1]!r}: known are {', '.join(TABLES)}")
        make, *suites = TABLES[found[1]]
        return f"<!-- bench:{found[1]} -->\n{make(tuple(suites))}\n<!-- /bench -->"

    return re.sub(r"<!-- bench:(\w+) -->\n.*?<!-- /bench -->", one, text, flags=re.DOTALL)


def pictures(write: bool) -> list[str]:
    """Names of the README's pictures that show other results than the stored ones; write: draw those anew."""
    stale = []
    for name, (draw, suite) in PICTURES.items():
        for result in [results[suite] for results in chosen((suite,))][:1]:
            if drawn_from(DOCS / name) != digest(result):
                stale.append(name)
                if write:
                    draw(result, DOCS / name)
    return stale


def drawn_from(path: Path) -> str | None:
    """The digest of the results that a picture was drawn from."""
    from PIL import Image

    return Image.open(path).info.get("Source") if path.exists() else None


def devices() -> list[str]:
    """Whose results each table shows, in a line."""
    lines = []
    for name, (_, *suites) in TABLES.items():
        named = [next(iter(results.values()))["machine"]["device"] for results in chosen(tuple(suites))]
        lines.append(f"{name}: {', '.join(named)}" if named else f"{name}: nothing measured by device")
    return lines


def main() -> int:
    text = README.read_text()
    filled = fill(text)
    print("\n".join(devices()))
    if "--check" not in sys.argv:
        README.write_text(filled)
        pictures(write=True)
        return 0
    stale = ["README.md"] * (filled != text) + pictures(write=False)
    agree = "README.md and benchmarks/results agree"
    print(f"{' and '.join(stale)}: not what benchmarks/results holds; run `make bench-tables`" if stale else agree)
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
