# Every target sets up what it needs: a virtual environment with exact versions, in .venv.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# Tests start some 300 Python programs: each would compile the package again without its bytecode.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --dist loadgroup

.PHONY: search test test-slow test-gpu check bench cluster-test cluster-test-short help clean

search: $(READY)  ## search the quick space on real MNIST and print the report
	$(BIN)/crnn-search launch search_spaces/quick.yaml

test: $(READY)  ## run the fast tests: 4 minutes on two cores
	$(PYTEST) -n 2 -m "not slow and not gpu" --hypothesis-profile fast

# Processes that start wait for each other: four tests at once keep two cores busy.
test-slow: .venv/.bench  ## run the slow tests, and the property tests with more examples: 19 minutes
	$(PYTEST) -n 4 -m "(slow or hypothesis) and not gpu" --hypothesis-profile ci

test-gpu: $(READY)  ## run the tests that need an NVIDIA GPU
	$(BIN)/python -m pytest -m gpu

check: $(READY)  ## check formatting, lint, types and the imports between rooms
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.bench  ## compare the engine with Ray's recipe, Optuna alone and Keras: 25 minutes
	$(BIN)/python -m benchmarks

.venv/.bench: $(READY)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,bench,examples]'
	touch $@

cluster-test: $(READY)  ## inject faults into a cluster of three hosts on this machine: root and Linux only
	$(BIN)/python -m tests.hosts

cluster-test-short: $(READY)  ## the same with one fault: a killed worker host
	$(BIN)/python -m tests.hosts --short

help:  ## list these targets
	@sed -n 's/^\([a-z-]*\):.*  ## /\1: /p' Makefile

clean:  ## remove the virtual environment and the caches; runs stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "crnn-search needs Python 3.11 or newer; name one with make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
