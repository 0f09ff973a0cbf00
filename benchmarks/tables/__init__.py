"""README's and docs' tables, made from benchmarks/results; `python -m benchmarks.tables`."""
