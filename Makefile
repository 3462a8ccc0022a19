# Two commands for a new machine:
#   make quickstart   install; generate data; train a classifier, a detector on its backbone and one
#                     from scratch; compare them; draw detections (8 minutes on two cores)
#   make test         install and run the tests, in two processes; JOBS=8 in eight
PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
QUICK := runs/quickstart

.PHONY: quickstart test lint types check docs clean

quickstart: $(VENV)/installed
	rm -rf $(addprefix $(QUICK)/,objects classifier backbone.safetensors pretrained scratch found)
	@echo "== 1/6 generate scenes; crop their objects and background squares"
	$(BIN)/resdet get-data synthetic --out $(QUICK)/data --train 600 --val 100
	$(BIN)/resdet crop-objects $(QUICK)/data/synthetic --from voc --split train --split val \
		--jitter 0.15 --background 3 --out $(QUICK)/objects
	@echo "== 2/6 train a classifier of the objects; recompute its BN statistics and freeze it"
	$(BIN)/resdet train-cls --cfg quickstart_cls_r18.yaml data.root=$(QUICK) \
		--out $(QUICK)/classifier
	$(BIN)/resdet freeze-bn $(QUICK)/classifier/weights/best.pt --out $(QUICK)/backbone.safetensors
	@echo "== 3/6 train a detector on that backbone"
	$(BIN)/resdet train-det --cfg quickstart_pretrained_r18.yaml data.root=$(QUICK)/data \
		backbone.weights=$(QUICK)/backbone.safetensors --out $(QUICK)/pretrained
	@echo "== 4/6 train the same detector from scratch, for the same number of steps"
	$(BIN)/resdet train-det --cfg quickstart_r18.yaml data.root=$(QUICK)/data --out $(QUICK)/scratch
	@echo "== 5/6 run inference and draw the detections"
	$(BIN)/resdet infer --weights $(QUICK)/pretrained/weights/best.pt --conf 0.3 --out $(QUICK)/found \
		$(QUICK)/data/synthetic/JPEGImages/val_*.jpg
	@echo "== 6/6 evaluate both detectors and compare them"
	$(BIN)/resdet eval --weights $(QUICK)/scratch/weights/best.pt
	$(BIN)/resdet eval --weights $(QUICK)/pretrained/weights/best.pt
	$(BIN)/resdet curves $(QUICK)/scratch $(QUICK)/pretrained --out $(QUICK)/curves.png
	$(BIN)/resdet report $(QUICK)/pretrained --detections $(QUICK)/found --out $(QUICK)/report.html

test: $(VENV)/installed-dev
	$(BIN)/pytest --numprocesses $(JOBS) --dist worksteal

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The repository root is the package: mypy finds it under its name through a link.
types: $(VENV)/installed-dev
	mkdir -p $(VENV)/source && ln -sfn $(CURDIR) $(VENV)/source/resdet
	MYPYPATH=$(VENV)/source $(BIN)/mypy -m resdet -p resdet.backbones \
		-p resdet.datasets -p resdet.detection -p resdet.tools

check: lint types test

# The source is the repository: links between pages are the same on the site and in the files.
docs: $(VENV)/installed-docs
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -c docs -d docs/_build/doctrees \
		. docs/_build/html
	@echo "open docs/_build/html/docs/index.html"

$(VENV)/installed: pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) build dist docs/_build docs/reference *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
