# Every target sets up what it needs: a virtual environment with exact versions, in .venv.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: search test check bench cluster-test cluster-test-short clean

search: $(READY)  ## search the quick space on real MNIST and print the report
	$(BIN)/crnn-search launch search_spaces/quick.yaml

test: $(READY)  ## run the tests
	$(BIN)/python -m pytest

check: $(READY)  ## formatting, lint, types and the rooms
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.bench  ## measure the engine beside Ray's recipe, Optuna alone and Keras: 25 minutes
	$(BIN)/python -m benchmarks

.venv/.bench: $(READY)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,bench]'
	touch $@

cluster-test: $(READY)  ## three hosts on this machine, and what hosts suffer; needs root and Linux
	$(BIN)/python -m tests.hosts

cluster-test-short: $(READY)  ## bring three hosts up, submit, kill one
	$(BIN)/python -m tests.hosts --short

clean:  ## remove the virtual environment and the caches; runs stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "crnn-search needs Python 3.11 or newer; name one with make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
