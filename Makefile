PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint format clean

## demo: train a model of each family on generated data and show their metrics
demo: $(STAMP)
	OMP_WAIT_POLICY=passive $(BIN)/python scripts/demo.py --family all

## test: lint and the whole test suite
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "odmt needs Python 3.11 or newer; name one with: make PYTHON=python3.12")'
	@echo 'installing into $(VENV), for once: some minutes'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test,tensorboard]'
	touch $(STAMP)

clean:
	rm -rf $(VENV)
