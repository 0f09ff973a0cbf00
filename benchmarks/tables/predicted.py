"""What was expected of the kernels before any had run on a GPU, by count, beside what was then measured there."""

from benchmarks.stored import fastest
from benchmarks.tables.machines import UNMEASURED, blocks, chosen, device, on_gpu
from benchmarks.tables.markdown import caption, table

# Microseconds of a picture, in a batch of one, that were thought to be within reach on an H200.
PARTS = {
    "backbone": 550,
    "FPN": 220,
    "RPN head": 180,
    "semantic": 160,
    "proposals": 60,
    "box stages": 350,
    "detections": 40,
    "masks": 450,
    "all": 2000,
}
OWNERS = {"box stage": "box stages", "mask": "masks"}
# Suite, case, type -> microseconds of the kernels as they were when they were read and counted.
CASES = {
    ("roi_align", "forward, 1000 RoIs to 7×7", "bfloat16"): "50 – 70",
    ("roi_align", "forward with the semantic map, 1000 RoIs to 7×7", "bfloat16"): "90 – 140",
    ("roi_align", "backward, 512 RoIs to 7×7", "bfloat16"): "50 – 90",
    ("nms", "the best 100 of 80 000 boxes, 80 classes", "float32"): "35 – 60",
    ("nms", "the best 1000 of 5 000 boxes, 5 classes, 5 images", "float32"): "55 – 65",
    ("conv3x3_relu", "forward, 100 RoIs of 14×14", "bfloat16"): "55 – 58",
    ("mask_predict", "one class, 100 RoIs of 14×14", "bfloat16"): "25 – 30",
    ("semantic_merge", "forward, 800×1344", "bfloat16"): "100 – 160",
}


def predicted(suites: tuple[str, ...]) -> str:
    """Parts of the detector, then single operators."""
    for results in chosen(suites):
        if on_gpu(device(results)):
            return f"{parts_of(results)}\n\n{cases_of(results)}"
    return f"{UNMEASURED.capitalize()}."


def parts_of(results: dict[str, dict]) -> str:
    """Of a run without a graph, one part after the other; all: a replay, in which two branches overlap."""
    found: dict[int, dict[str, float]] = {}
    for row in results.get("kernels", {"rows": []})["rows"]:
        sums = found.setdefault(row["batch"], {})
        for one in row.get("operators", ()):
            name = next((owner for word, owner in OWNERS.items() if one["part"].startswith(word)), one["part"])
            sums[name] = sums.get(name, 0.0) + one["us"] / row["batch"]
        if "operators" in row:
            sums["all"] = row["ms in a row"] * 1e3 / row["batch"]
    lines = []
    for name, expected in PARTS.items():
        measured = [f"{found[batch][name]:.0f}" if name in found.get(batch, {}) else "–" for batch in (1, 8)]
        lines.append([name, str(expected), *measured])
    return table(["µs per picture", "thought reachable, batch 1", "measured, batch 1", "batch 8"], lines)


def cases_of(results: dict[str, dict]) -> str:
    lines = []
    for (suite, case, dtype), words in CASES.items():
        rows = results.get(suite, {"rows": []})["rows"]
        times = [
            fastest(row["milliseconds"]["htc_fast"]) for row in rows if (row["case"], row["dtype"]) == (case, dtype)
        ]
        lines.append([f"`{suite}`: {case}", dtype, words, f"{times[0] * 1e3:.0f}" if times else "–"])
    return table(["µs", "type", "expected", "measured"], lines)


def tried(suites: tuple[str, ...]) -> str:
    """Changes: before, predicted, after; and whether they stayed."""
    return blocks(suites, lambda results: tried_of(results["tried"]))


def tried_of(result: dict) -> str:
    lines = [
        [
            row["what"],
            f"{row['before us']:g}",
            row["predicted us"],
            f"{row['after us']:g}",
            "yes" if row["kept"] else "no",
        ]
        for row in result["rows"]
    ]
    head = ["change, µs before and after it in one run", "before", "predicted", "after", "kept"]
    return f"{table(head, lines)}\n\n{caption(result)}"
