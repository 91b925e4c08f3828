# Every target makes the virtual environment it needs. `make demo` and `make test` are all a newcomer has to know.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Tests in as many processes as there are cores, up to four: each may load a model.
PYTEST := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal

.PHONY: demo test test-all soak lint types docs clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch numpy
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	rm -rf build/demo && mkdir -p build/demo
	$(BIN)/llmzip compress examples/short.txt -o build/demo/short.crm
	$(BIN)/llmzip info build/demo/short.crm
	$(BIN)/llmzip decompress build/demo/short.crm
	cmp examples/short.txt build/demo/short.txt
	@echo "identical: examples/short.txt went into vectors and back"

# What a newcomer runs: all but what takes long.
test: $(STAMP)
	$(PYTEST) -m 'not slow and not gpu'

# Everything. CI runs this.
test-all: $(STAMP)
	$(PYTEST)

# All that the soak tests take a sample of. One core, a while.
soak: $(STAMP)
	$(BIN)/python -m tests.soak

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

# docs/CLI.md and the manual, from the commands themselves.
docs: $(STAMP)
	$(BIN)/python scripts/make_cli_docs.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
