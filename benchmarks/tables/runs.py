"""Runs of their own kind: profile, curves, 16 bits, memory, training."""

import json

from benchmarks import stored
from benchmarks.tables.machines import UNMEASURED, blocks, on_gpu
from benchmarks.tables.markdown import caption, captions, milliseconds, paragraphs, table
from htc_fast.ablation import report as ablation_report
from htc_fast.ablation.steps import step, value
from htc_fast.profiling import report
from htc_fast.profiling.legend import in_order, label, short
from htc_fast.profiling.paper import FPS


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
    words = ("", "img/s", "ms", "GFLOP", "limit, ms", "reached", "paper, fps", "of its card's limit")
    head = [f"{setting['size'][0]}×{setting['size'][1]}, batch {setting['batch_size']}", *words]
    absent = "; ".join(f"{who}: absent ({reason})" for who, reason in result["absent"].items())
    missing = [name for name in FPS if name not in {row["case"] for row in result["rows"]}]
    missing = f"{', '.join(missing)}: {UNMEASURED} here." if missing else ""
    # Parts of an optimized detector are launched one by one on a GPU, where a graph would be replayed.
    slowest = (
        []
        if on_gpu(result["machine"]["device"])
        else [line.strip() for line in report.bottlenecks(result).splitlines() if "htc_r50, optimized" in line]
    )
    next_ones = f"Most time above the limit: {'; '.join(slowest)}." if slowest else ""
    return paragraphs(table(head, rows), parts(result, "htc_r50"), next_ones, missing, absent, caption(result))


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


def ablation(suites: tuple[str, ...]) -> str:
    """The paper's Tables 2 to 6 in miniature."""
    return blocks(suites, lambda results: ablation_of(results["ablation"]))


def ablation_of(result: dict) -> str:
    shown = "![Steps in mask AP with their intervals, beside the paper's](ablation.png)"
    return f"{shown}\n\n{ablation_report.markdown(result, level=3)}"


def descendants(suites: tuple[str, ...]) -> str:
    """HTC, SCNet and the strong recipe in the same minutes."""
    return blocks(suites, lambda results: descendants_of(results["descendants"]))


def descendants_of(result: dict) -> str:
    lines, base = [], result["rows"][0]
    for row in result["rows"]:
        steps = [one["iterations"] for one in row["runs"]]
        cells = [_spread([100 * one[key] for one in row["runs"]]) for key in ("box_AP", "mask_AP", "mask_AP50")]
        ours, theirs = ({one["seed"]: 100 * one["mask_AP"] for one in each["runs"]} for each in (row, base))
        gain = "" if row is base else ablation_report.step_words(step(ours, theirs))
        lines.append([row["case"], f"{min(steps)} to {max(steps)}", *cells, gain])
    minutes = ", ".join(f"{one:g}" for one in dict.fromkeys(row["minutes"] for row in result["rows"]))
    seeds = f"{len(base['runs'])} seeds, {minutes} minutes each on {cores(base)}"
    head = ["the sample scenes", "steps", "box AP", "mask AP", "mask AP50", f"step in mask AP from {base['case']}"]
    return table(head, lines) + f"\n\n{seeds}; mean ± standard deviation; {caption(result)}"


def cores(row: dict) -> str:
    return "all cores" if row["jobs"] == 1 else f"its share of the cores, {row['jobs']} runs side by side"


def _spread(numbers: list[float]) -> str:
    found = value(numbers)
    assert found is not None
    return f"{found.mean:.1f}" + ("" if found.spread is None else f" ± {found.spread:.1f}")


def target_memory(suites: tuple[str, ...]) -> str:
    """What many objects in a picture cost, with a bitmap for each and with layers."""
    return blocks(suites, lambda results: target_memory_of(results["target_memory"]))


def target_memory_of(result: dict) -> str:
    forms = {"before": "a bitmap for each", "after": "layers"}
    keys = "MB of loading", "MB of loading and a step", "s of loading", "s of a step"
    rows = [
        [f"{row['objects']} objects at {row['side']}²", forms[row["form"]], *(f"{row[key]:g}" for key in keys)]
        for row in result["rows"]
        if "objects" in row
    ]
    words = [
        f"{forms[row['form']]} {row['ms of loading']:.0f} and {row['ms of a step']:.0f} ms"
        for row in result["rows"]
        if "data" in row
    ]
    usual = f"Loading two pictures of the sample, and a step on them: {', '.join(words)}."
    return paragraphs(table(["", "masks", *keys], rows, words=2), usual, caption(result))


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
        [
            row["computed in"],
            *(f"{row[key]:.4f}" for key in keys),
            f"{row['matched']:.1%} of {row['of']}",
            f"{row['scores apart']:.4f}",
        ]
        for row in result["rows"]
    ]
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
    rows = [
        [f"{row['batch']} × {row['height']}×{row['width']}", *(f"{row['MB'][one]:.0f}" for one in types)]
        for row in result["rows"]
    ]
    head = ["htc_r50, optimized", *(f"{short(one)}, MB" for one in types)]
    return table(head, rows) + f"\n\n{result['what']}; {caption(result)}"


def speed(suites: tuple[str, ...]) -> str:
    """Images per second of the detector on a GPU, in a sentence for each."""
    return blocks(suites, lambda results: speed_of(results["kernels"]))


def speed_of(result: dict) -> str:
    rates = {mode: [] for mode in ("optimized", "eager")}
    for row in result["rows"]:
        rates[row["mode"]].append(f"{row['batch'] * 1e3 / row['ms in a row']:.0f} in batches of {row['batch']}")
    words = "; ".join(f"{mode} {', '.join(found)}" for mode, found in rates.items())
    return f"HTC R-50, 800×1344, bf16, on {result['machine']['device']}, images/s on the device: {words}."


def kernels(suites: tuple[str, ...]) -> str:
    """A detector on a GPU: milliseconds, then operators and kernels of one replay beside their limits."""
    return blocks(suites, lambda results: kernels_of(results["kernels"]))


def kernels_of(result: dict) -> str:
    head = ["HTC R-50, 800×1344", "ms of a call", "ms in a row", "images/s", "ms at least", "reached", "launches"]
    lines, tables = [], []
    for row in result["rows"]:
        least, launched = sum(one["limit us"] for one in row.get("operators", ())) / 1e3, "–"
        if least:
            launched = str(sum(one["count"] for one in row["replay"]))
            tables += [operators_of(row), replay_of(row)]
        share = [f"{least:.2f}", f"{least / row['ms in a row']:.0%}"] if least else ["–", "–"]
        name = f"{row['mode']}, {short(row['dtype'])}, batch {row['batch']}"
        speed = [f"{row['ms']:.2f}", f"{row['ms in a row']:.2f}", f"{row['batch'] * 1e3 / row['ms in a row']:.0f}"]
        lines.append([name, *speed, *share, launched])
    return paragraphs(table(head, lines), *tables, caption(result))


def operators_of(row: dict) -> str:
    """Of a run without a graph, one operator after the other."""
    lines = []
    for one in row["operators"]:
        name = one["operator"].removeprefix("htc_fast::").replace("htc_fast_triton::", "Triton's ")
        name = name.replace("none", "what counting the operations copies")
        launched = sum(count for count, _ in one["kernels"].values())
        sums = [f"{one['gflop']:.1f}", f"{one['mb']:.0f}", f"{one['us']:.0f}", f"{one['limit us']:.0f}"]
        share = f"{one['limit us'] / one['us']:.0%}"
        lines.append([f"{one['part']}: {name}", str(one["calls"]), str(launched), *sums, share])
    head = [f"batch {row['batch']}, operator", "calls", "launches", "GFLOP", "MB", "µs", "at least, µs", "reached"]
    return table(head, lines)


def replay_of(row: dict, most: int = 24) -> str:
    """The kernels of one replay, longest first."""
    lines = []
    for one in row["replay"][:most]:
        name = one["kernel"].removeprefix("void ").replace("(anonymous namespace)::", "").split("(")[0].split("<")[0]
        limit = one.get("limit us")
        share = [f"{limit:.0f}", f"{limit / one['us']:.0%}"] if limit is not None else ["–", "–"]
        lines.append([f"`{name[:90]}`", str(one["count"]), f"{one['us']:.0f}", *share])
    rest = row["replay"][most:]
    if rest:
        lines.append(
            ["all others", str(sum(one["count"] for one in rest)), f"{sum(one['us'] for one in rest):.0f}", "–", "–"]
        )
    return table([f"batch {row['batch']}, kernel of a replay", "launches", "µs", "at least, µs", "reached"], lines)


def training(suites: tuple[str, ...]) -> str:
    """What a run reached, beside its rival."""
    path = stored.RESULTS / f"{suites[0]}.json"
    if not path.exists():
        return f"{UNMEASURED.capitalize()}."
    result = json.loads(path.read_text())
    rows = [
        [who, str(one["images"]), *(f"{one[name]:.3f}" for name in ("mask_AP", "mask_AP50", "mask_AP75"))]
        for who, one in result["runs"].items()
    ]
    head = ["30 minutes, two cores", "images seen", "mask AP", "AP50", "AP75"]
    return table(head, rows) + f"\n\n{result['note']}"


def training_speed(suites: tuple[str, ...]) -> str:
    """Images per second of training steps on a GPU."""
    return blocks(suites, lambda results: training_speed_of(results["training_speed"]))


def training_speed_of(result: dict) -> str:
    lines = []
    for row in result["rows"]:
        name = f"{row['case']}, {short(row['dtype'])}, batch {row['batch']}, {row['mode']}"
        numbers = [f"{row['images/s']:.1f}", f"{row['ms']:.1f}", f"{row['spread ms']:.1f}"]
        first = row.get("first step s")
        peak = f"{row['peak MB'] / 1024:.1f}" if "peak MB" in row else "–"
        lines.append([name, *numbers, peak, "–" if first is None else f"{first:.0f}", ", ".join(row["shapes"])])
    head = ["a training step, 800×1333", "images/s", "ms", "spread", "peak GB", "first step, s", "padded pictures"]
    return paragraphs(table(head, lines), caption(result))


def trained(suites: tuple[str, ...]) -> str:
    """What runs reached on a GPU."""
    return blocks(suites, lambda results: trained_of(results["trained"]))


def trained_of(result: dict) -> str:
    lines = []
    for row in result["rows"]:
        scores = [f"{row[key]:.3f}" if key in row else "–" for key in ("mask_AP", "mask_AP50", "mask_AP75", "box_AP")]
        lines.append([row["case"], str(row["iterations"]), f"{row['seconds']:.0f}", f"{row['images/s']:.1f}", *scores])
    head = ["run", "steps", "seconds in all", "images/s", "mask AP", "AP50", "AP75", "box AP"]
    options = [f"{row['case']}: `{row['options']}`" for row in result["rows"] if row["options"]]
    return paragraphs(table(head, lines), *options, caption(result))
