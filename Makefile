# Two commands for a fresh machine:
#   make quickstart   set everything up, make data, train, evaluate, draw (about 8 minutes on two cores)
#   make test         set everything up and pass the tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
QUICK := runs/quickstart

.PHONY: quickstart test lint types check clean

quickstart: $(VENV)/installed
	rm -rf $(QUICK)/run $(QUICK)/found
	$(BIN)/resdet get-data synthetic --out $(QUICK)/data --train 600 --val 100
	$(BIN)/resdet train-det --cfg quickstart_r18.yaml data.root=$(QUICK)/data --out $(QUICK)/run
	$(BIN)/resdet eval --weights $(QUICK)/run/weights/best.pt
	$(BIN)/resdet infer --weights $(QUICK)/run/weights/best.pt --out $(QUICK)/found \
		$(QUICK)/data/synthetic/JPEGImages/val_*.jpg
	$(BIN)/resdet report $(QUICK)/run --detections $(QUICK)/found --out $(QUICK)/report.html

test: $(VENV)/installed-dev
	$(BIN)/pytest

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The package is the folder itself: mypy finds it under its name through a link.
types: $(VENV)/installed-dev
	mkdir -p $(VENV)/source && ln -sfn $(CURDIR) $(VENV)/source/resdet
	MYPYPATH=$(VENV)/source $(BIN)/mypy -m resdet -p resdet.backbones \
		-p resdet.datasets -p resdet.detection -p resdet.tools

check: lint types test

$(VENV)/installed: pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
