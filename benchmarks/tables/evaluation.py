"""COCO evaluation beside other packages'."""

from benchmarks.tables.machines import blocks
from benchmarks.tables.markdown import caption, paragraphs, table


def evaluation(suites: tuple[str, ...]) -> str:
    """Seconds and memory of each package, and whether it has the same figures."""
    return blocks(suites, lambda results: evaluation_of(results[suites[0]]))


def evaluation_of(result: dict) -> str:
    rows, first = [], {}
    for row in result["rows"]:
        ratio = row["seconds"] / first.setdefault(row["kind"], row["seconds"])
        equal = "–" if row["package"] == "htc_fast" else "to the last bit" if row["equal"] else "no"
        rows.append([row["package"], row["kind"], f"{row['seconds']:.2f}", f"{ratio:.1f}", str(row["MB"]), equal])
    of = f"{result['pictures']} pictures × {result['detections']} detections, {result['classes']} classes"
    head = [f"{of}, {result['threads']} threads", "kind", "seconds", "times ours", "MB", "figures equal"]
    return paragraphs(table(head, rows, words=2), caption(result))
