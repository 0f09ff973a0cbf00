.PHONY: build wheel test test-quick lint types bench bench-full bench-quick bench-sweep bench-profile bench-compare bench-tables docs clean
RESULTS = benchmarks/results/$(shell python -c "from htc_fast.profiling.limits import device_name; print(device_name())")
build:
	pip install --no-build-isolation -e .
wheel:
	scripts/wheels.sh
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
bench-quick:
	python -m pytest benchmarks --benchmark-only --quick
bench-compare:
	python -m pytest benchmarks --benchmark-only --benchmark-compare
bench-sweep:
	python -m benchmarks.sweep
bench-profile:
	python -m htc_fast.profile --image-size 800 1333 --out $(RESULTS)
bench-tables:
	python -m benchmarks.tables
types:
	mypy
# Not --quiet: mkdocs would then not count its warnings, and strict would mean nothing.
docs:
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict
clean:
	rm -rf build htc_fast/*.so
