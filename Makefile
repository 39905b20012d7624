# Set-up and the commands the README promises; every target is self-contained on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# The methods alone, with the oldest torch that is supported and without Ray, Optuna and MLflow.
METHODS_VENV := .venv-methods
METHODS_BIN := $(METHODS_VENV)/bin
METHODS_PACKAGES := 'torch==2.11.*' 'torchvision==0.26.*' numpy safetensors pydantic scikit-learn \
	fvcore torchmetrics scipy threadpoolctl filelock fsspec moocore tokenizers ckatorch pytest \
	pytest-timeout hypothesis
METHODS_TESTS := $(addprefix tests/unit/,conversion library transforms blocks tasks costs candidate \
	estimate space values stitching guide/test_chain.py guide/test_tracing.py)

.PHONY: demo test test-methods check lint format types contracts wheel docs audit clean

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

# Two files of tests at a time, one thread each.
test: $(VENV)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

$(METHODS_VENV): pyproject.toml Makefile
	$(PYTHON) -m venv $(METHODS_VENV)
	$(METHODS_BIN)/pip install --quiet uv
	$(METHODS_BIN)/uv pip install --quiet --python $(METHODS_BIN)/python $(METHODS_PACKAGES)
	touch $(METHODS_VENV)

test-methods: $(METHODS_VENV)
	! $(METHODS_BIN)/uv pip list --python $(METHODS_BIN)/python | grep -E '^(ray|optuna|mlflow) '
	$(METHODS_BIN)/python -m pytest $(METHODS_TESTS)

lint: $(VENV)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)
	$(BIN)/mypy

contracts: $(VENV)
	$(BIN)/lint-imports

# What a release publishes; tests/integration/test_wheel.py installs the like and searches with it.
wheel: $(VENV)
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*

# The site of docs/, in site/; a warning is an error. Look at it: python -m http.server -d site
docs: $(VENV)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Known vulnerabilities of what is installed; see SECURITY.md. It needs the network, so it is not part
# of check; where the data cannot be reached, that is said, and is no failure.
AUDIT_VENV := .venv-audit
$(AUDIT_VENV):
	$(PYTHON) -m venv $(AUDIT_VENV)
	$(AUDIT_VENV)/bin/pip install --quiet pip-audit || { rm -rf $(AUDIT_VENV); false; }

audit: $(VENV)
	@$(MAKE) --no-print-directory $(AUDIT_VENV) || { echo "pip-audit cannot be installed here"; exit 0; }; \
	$(BIN)/uv pip freeze --python $(BIN)/python --exclude-editable > $(AUDIT_VENV)/installed.txt && \
	if $(AUDIT_VENV)/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off \
		--requirement $(AUDIT_VENV)/installed.txt > $(AUDIT_VENV)/found.txt 2> $(AUDIT_VENV)/said.txt; \
	then cat $(AUDIT_VENV)/said.txt; \
	elif [ -s $(AUDIT_VENV)/found.txt ]; then cat $(AUDIT_VENV)/found.txt $(AUDIT_VENV)/said.txt; exit 1; \
	else echo "the data on vulnerabilities cannot be reached:"; tail -n 1 $(AUDIT_VENV)/said.txt; fi

check: lint types contracts wheel test

format: $(VENV)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Caches and builds only: what searches have found, in theseus/, stays.
clean:
	rm -rf $(VENV) $(METHODS_VENV) $(AUDIT_VENV) build dist site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find nas_theseus search_spaces benchmarks tests -name __pycache__ -prune -exec rm -rf {} +
