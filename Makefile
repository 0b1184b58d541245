# On a fresh machine with Python 3.11, pip and npm: `make benchmark` sets up .venv and runs the main job, `make test` runs the fast tests.
PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
# `mlflow run --env-manager local` takes the python that comes first on PATH.
export PATH := $(BIN):$(PATH)
export MLFLOW_DISABLE_TELEMETRY ?= true
export MLFLOW_EXPERIMENT_NAME ?= dn2-bench

.PHONY: benchmark test slow faults check format ui

benchmark: $(VENV)/installed
	@# The paper's numbers as runs, to compare with. This also makes the store, which mlflow run does unsafely: killed
	@# meanwhile, it leaves one that cannot be opened.
	python -m benchmarks paper
	mlflow run . --env-manager local $(ARGS)

test: $(VENV)/installed
	python -m pytest -n 2 --dist worksteal

slow: $(VENV)/installed
	python -m pytest -m slow

# What goes wrong on machines, all of it; docs/reliability.md quotes the table at the end. Small disks need root.
faults: $(VENV)/installed
	python -m pytest tests/faults -m "slow or not slow"

check: $(VENV)/installed
	ruff format --check .
	ruff check .
	mypy
	python -m pytest -n 2 --dist worksteal

format: $(VENV)/installed
	ruff format .
	ruff check --fix .

ui: $(VENV)/installed
	python -m benchmarks ui

# Written last, so that an installation cut short is done again.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	touch $@
