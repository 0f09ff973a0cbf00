.PHONY: build test test-quick lint bench bench-full bench-sweep bench-profile bench-compare bench-tables clean
RESULTS = benchmarks/results/$(shell python -c "from htc_fast.profiling.limits import device_name; print(device_name())")
build:
	pip install --no-build-isolation -e .
test:
	python -m pytest
test-quick:
	python -m pytest -m "not slow"
lint:
	ruff check . && ruff format --check . && clang-format --dry-run --Werror $$(git ls-files "csrc/*" "tests/simt/*" | grep -E '\.(h|cpp|cu|cuh)$$')
bench:
	python -m pytest benchmarks --benchmark-only
bench-full:
	python -m pytest benchmarks --benchmark-only --full
bench-compare:
	python -m pytest benchmarks --benchmark-only --benchmark-compare
bench-sweep:
	python -m benchmarks.sweep
bench-profile:
	python -m htc_fast.profile --image-size 800 1333 --out $(RESULTS)
bench-tables:
	python scripts/bench_tables.py
clean:
	rm -rf build htc_fast/*.so
