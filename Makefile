# Set-up and the commands the README promises; every target is self-contained on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check lint format types contracts clean

# uv sync installs the project itself (editable) and the dev group; compiled, imports take half.
$(VENV): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet uv
	$(BIN)/uv sync --quiet --active --inexact --compile-bytecode
	touch $(VENV)

# Run again, it continues: finished trials stay.
demo: $(VENV)
	$(BIN)/nas-theseus search search_spaces/digits.py --name demo --trials 12
	$(BIN)/nas-theseus front demo
	@echo "front and networks: theseus/searches/demo/front (open front.html)"
	@echo "all runs:           $(BIN)/nas-theseus ui"

test: $(VENV)
	$(BIN)/pytest

lint: $(VENV)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)
	$(BIN)/mypy

contracts: $(VENV)
	$(BIN)/lint-imports

check: lint types contracts test

format: $(VENV)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Caches and builds only: what searches have found, in theseus/, stays.
clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find nas_theseus search_spaces benchmarks tests -name __pycache__ -prune -exec rm -rf {} +
