"""The table of what a trained detector is worth in every form that it can be deployed in."""

from benchmarks.tables.deploy import told_faster
from benchmarks.tables.machines import blocks
from benchmarks.tables.markdown import caption, milliseconds, paragraphs, table


def deploy_ap(suites: tuple[str, ...]) -> str:
    """AP, what is found again, and milliseconds by runtime and type."""
    return blocks(suites, lambda results: deploy_ap_of(results["deploy_ap"]))


def deploy_ap_of(result: dict) -> str:
    keys = [key for key in result["rows"][0] if key.endswith(("AP", "AP50"))]
    rows = [
        [
            row["run by"],
            row["dtype"],
            *(f"{row[key]:.4f}" for key in keys),
            f"{row['matched']:.1%} of {row['of']}",
            milliseconds(row["milliseconds"]["median"]),
        ]
        for row in result["rows"]
    ]
    head = ["", "type", *keys, f"of score ≥ {result['score']} matched, IoU ≥ {result['iou']}", "ms"]
    height, width = result["frame"]
    pictures = f"{result['rows'][0]['pictures']} pictures in a frame of {height}×{width}"
    packages = ", ".join(f"{name} {number}" for name, number in result["packages"].items() if number)
    words = [
        f"{result['model']} over {result['backbone']}, {pictures}",
        f"int8 with the ranges of {result['calibrated with']} training pictures",
        f"{result['threads']} threads, {caption(result)}, {packages}",
        *([result["note"]] if result["note"] else []),
    ]
    return paragraphs(table(head, rows, words=2), faster(result["rows"]), "; ".join(words))


def faster(rows: list[dict]) -> str:
    """Every part in which another runtime needs clearly less than `optimize()` in the same type."""
    ours = {row["dtype"]: row for row in rows if row["run by"] == "optimize()"}
    others = [row for row in rows if row["dtype"] in ours and row["run by"] != "optimize()" and row.get("parts")]
    return told_faster([(f"{row['run by']}, {row['dtype']}", ours[row["dtype"]], row) for row in others])
