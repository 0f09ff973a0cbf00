"""The README's numbers are those of benchmarks/results, and a wrong one is noticed."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("bench_tables", ROOT / "scripts" / "bench_tables.py")
bench_tables = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench_tables)
README = (ROOT / "README.md").read_text()


def test_tables_are_those_of_the_results():
    assert bench_tables.fill(README) == README, "run `make bench-tables`"


def test_a_typed_number_is_noticed():
    at = README.index("|", README.index("<!-- bench:nms -->"))
    changed = README[:at] + "| 0.001 " + README[at:]
    assert bench_tables.fill(changed) == README != changed


def test_every_table_is_asked_for():
    assert all(f"<!-- bench:{name} -->" in README for name in bench_tables.TABLES)


def test_counted_costs_are_current():
    spec = importlib.util.spec_from_file_location("matrix_costs", ROOT / "scripts" / "matrix_costs.py")
    costs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(costs)
    assert costs.document() == costs.DOCUMENT.read_text(), "run python scripts/matrix_costs.py --update"
