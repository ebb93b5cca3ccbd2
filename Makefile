# make train | model | paper | test | test-all | docs | audit | setup: each installs what is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: setup train model paper test test-all lint docs audit clean

setup: $(INSTALLED)

# Written last, so an install that was cut short is not taken for a finished one.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "posematch needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,wandb,tensorboard,search]'
	touch $@

train: $(INSTALLED)
	$(BIN)/python scripts/train.py loss=gaussian_mse trainer.max_epochs=9 validate_first=true

# The model that comes with posematch, from nothing: about half an hour on two cores.
model: $(INSTALLED)
	$(BIN)/python scripts/train.py experiment=drawn_people run_root=runs/model resume=auto
	$(BIN)/python scripts/calibrate.py "$$(ls -d runs/model/*/ | tail -n 1)"
	rm -rf src/posematch/models/drawn_people
	$(BIN)/python scripts/publish.py "$$(ls -d runs/model/*/ | tail -n 1)" output=src/posematch/models/drawn_people half=true \
		name=drawn_people licence=apache-2.0 limits="'It was trained on drawn people and knows no others: on photos of real people it is a toy, to try commands with.'"

# Three losses, two seeds, tables, figures and report; stopped, the same command goes on.
paper: $(INSTALLED)
	$(BIN)/python scripts/paper.py

test: $(INSTALLED) lint
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow"

test-all: $(INSTALLED) lint
	$(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# The documents as a site that needs no server and no network; a broken link ends it.
docs: $(INSTALLED)
	$(BIN)/mkdocs build --strict

# Known vulnerabilities of the versions in constraints.txt; asks a database on the network.
audit: $(INSTALLED)
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
