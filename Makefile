.PHONY: build test lint bench bench-tables clean
build:
	pip install --no-build-isolation -e .
test:
	python -m pytest
lint:
	ruff check . && ruff format --check . && clang-format --dry-run --Werror $$(git ls-files "csrc/*" "tests/simt/*" | grep -E '\.(h|cpp|cu|cuh)$$')
bench:
	python -m pytest benchmarks --benchmark-only
bench-tables:
	python scripts/bench_tables.py
clean:
	rm -rf build htc_fast/*.so
