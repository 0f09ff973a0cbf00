"""A detector in every form that it can be deployed in, and which part is faster elsewhere."""

from benchmarks.tables.machines import blocks
from benchmarks.tables.markdown import caption, milliseconds, paragraphs, table
from htc_fast.profiling.legend import in_order, short

WORDS = {
    "eager": "PyTorch, as it is",
    "optimized": "`optimize()`",
    "pt2": "`.pt2`",
    "aot": "AOTInductor",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
}
SUMS = {"box stage": "box stages", "mask stage": "mask stages"}
RESTS = ("input", "rest")
CLEARLY = 0.9  # of ours: what is less is faster, whatever the machine did meanwhile
LEAST = 1  # ms: of what takes less, the clock decides


def deploy(suites: tuple[str, ...]) -> str:
    """Times and memory, then the parts, then in which parts others are faster."""
    return blocks(suites, lambda results: deploy_of(results[suites[0]]))


def deploy_of(result: dict) -> str:
    sizes = sorted({tuple(row["size"]) for row in result["rows"]})
    tables = [table_of(result, size) for size in sizes]
    parts = [parts_of(result, size) for size in sizes]
    used = ", ".join(f"{name} {one}" for name, one in result["packages"].items() if one)
    failed = dict.fromkeys(f"{called(row)}: {row['failed']}" for row in result["rows"] if "failed" in row)
    return paragraphs(*tables, *parts, faster(result), *failed, f"{caption(result)}, {used}")


def called(row: dict) -> str:
    return f"{WORDS[row['runtime']]}, {short(row['dtype'])}"


def table_of(result: dict, size: tuple[int, ...]) -> str:
    lines = []
    for row in of_size(result, size):
        if "failed" in row:
            lines.append([called(row), "failed", *["–"] * 5])
            continue
        time = row["milliseconds"]
        cells = [milliseconds(time["median"]), milliseconds(time["spread"]), f"{row['seconds to load']:.1f}"]
        lines.append([called(row), *cells, f"{row['MB on disk']:.0f}", str(row["peak MB"]), same(row)])
    head = [
        f"{size[0]}×{size[1]}, {result['threads']} threads",
        "ms",
        "spread",
        "s to load",
        "MB on disk",
        "MB at most",
    ]
    return table([*head, "the model's own detections"], lines)


def same(row: dict) -> str:
    return f"{row['twins']} of {row['of']}"


def of_size(result: dict, size: tuple[int, ...]) -> list[dict]:
    return [row for row in result["rows"] if tuple(row["size"]) == size]


def grouped(row: dict) -> dict[str, float]:
    """A row's parts, the stages of boxes and of masks together."""
    found: dict[str, float] = {}
    for name, value in row.get("parts", {}).items():
        owner = next((word for stem, word in SUMS.items() if name.startswith(stem)), "rest" if name in RESTS else name)
        found[owner] = found.get(owner, 0.0) + value
    return found


def parts_of(result: dict, size: tuple[int, ...]) -> str:
    rows = [row for row in of_size(result, size) if row.get("parts")]
    parts = [grouped(row) for row in rows]
    names = in_order({name: 0 for one in parts for name in one})
    order = [name for name in names if name != "box stages"]
    if "box stages" in names:
        order.insert(order.index("detections") if "detections" in order else len(order), "box stages")
    lines = [[name, *(milliseconds(one[name]) if name in one else "–" for one in parts)] for name in order]
    return table([f"{size[0]}×{size[1]}, ms", *map(called, rows)], lines) if rows else ""


def faster(result: dict) -> str:
    """Every part in which another runtime needs clearly less than `optimize()` in the same type."""
    pairs = []
    for row in result["rows"]:
        ours = [
            one for one in of_size(result, tuple(row["size"]))
            if (one["runtime"], one["dtype"]) == ("optimized", row["dtype"])
        ]  # fmt: skip
        if not ours or row["runtime"] in ("eager", "optimized") or not row.get("parts"):
            continue
        pairs.append((f"{called(row)} at {row['size'][0]}×{row['size'][1]}", ours[0], row))
    return told_faster(pairs)


def told_faster(pairs: list[tuple[str, dict, dict]]) -> str:
    """Of (words, a row of `optimize()`, another one) every part that is clearly faster in the other."""
    lines = []
    for where, ours, row in pairs:
        mine, theirs = grouped(ours), grouped(row)
        found = [
            f"{name} {milliseconds(theirs[name])} (ours {milliseconds(mine[name])})"
            for name in in_order(mine)
            if name in theirs and mine[name] > LEAST and theirs[name] < CLEARLY * mine[name]
        ]
        lines.append(f"{where}: {', '.join(found) if found else 'nowhere'}")
    which = f"by more than {1 - CLEARLY:.0%}, of parts that take it more than {LEAST} ms"
    return f"Faster than `optimize()` in the same type, {which}: {'; '.join(lines)}." if lines else ""
