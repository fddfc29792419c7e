# `make demo` and `make test` set up all they need in .venv; only Python 3.11 or newer is asked for.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test lint types notebooks picture setup clean

demo: $(VENV)/.demo
	$(BIN)/homer demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 -m "not slow" --deselect tests/test_notebooks.py::test_it_runs_top_to_bottom

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.dev
	$(BIN)/mypy

# runs the notebooks in place, and keeps their outputs
notebooks: $(VENV)/.dev
	$(BIN)/python -m notebooks.run

# draws the README's answer anew; needs chromium
picture: $(VENV)/.dev
	$(BIN)/python -m docs.picture

setup: $(VENV)/.dev

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

# torch first and alone: the pinned version has a build for every machine, with or without a GPU
$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .[dev]
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
