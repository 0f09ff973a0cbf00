"""What became slower than the stored run of the same device."""

TOLERANCE = 1.25


def than(before: dict, rows: list[dict]) -> list[str]:
    """One sentence for each case whose median grew by more than a quarter; nothing for new cases."""
    stored = {(row["case"], row["dtype"]): row["milliseconds"].get("htc_fast") for row in before["rows"]}
    found = []
    for row in rows:
        old, new = stored.get((row["case"], row["dtype"])), row["milliseconds"].get("htc_fast")
        if old and new and new["median"] > TOLERANCE * old["median"] + old["spread"]:
            found.append(f"{row['case']} ({row['dtype']}): {new['median']} ms, was {old['median']} ms")
    return found
