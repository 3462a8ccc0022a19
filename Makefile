# Commands for a new machine:
#   make quickstart   install; draw scenes; train a classifier of their objects, and a detector on its
#                     backbone; write a page that shows what it finds
#   make comparison   after it: train the same detector from scratch, and compare the two
#   make test         install and run the tests, in two processes; JOBS=8 in eight
#   make locked       before it: install exactly the versions of requirements-dev.txt, checked by hash
#   make lock         write that file for a changed pyproject.toml; UPGRADE=1: with newer versions
PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
UV := $(VENV)/uv/bin/uv
QUICK := runs/quickstart

.PHONY: quickstart comparison test lint types check docs locked lock clean

quickstart: $(VENV)/installed
	rm -rf $(addprefix $(QUICK)/,objects classifier backbone.safetensors pretrained found report.html)
	@echo "== 1/5 draw 700 scenes; crop their objects and background squares"
	$(BIN)/resdet get-data synthetic --out $(QUICK)/data --train 600 --val 100
	$(BIN)/resdet crop-objects $(QUICK)/data/synthetic --from voc --split train --split val \
		--jitter 0.15 --background 3 --out $(QUICK)/objects
	@echo "== 2/5 train a classifier of the objects; recompute its BN statistics and freeze it"
	$(BIN)/resdet train-cls --cfg quickstart_cls_r18.yaml data.root=$(QUICK) \
		--out $(QUICK)/classifier
	$(BIN)/resdet freeze-bn $(QUICK)/classifier/weights/best.pt --out $(QUICK)/backbone.safetensors
	@echo "== 3/5 train a detector on that backbone"
	$(BIN)/resdet train-det --cfg quickstart_pretrained_r18.yaml data.root=$(QUICK)/data \
		backbone.weights=$(QUICK)/backbone.safetensors --out $(QUICK)/pretrained
	@echo "== 4/5 evaluate it on the 100 scenes of val; draw what it finds in 20 of them"
	$(BIN)/resdet eval --weights $(QUICK)/pretrained/weights/best.pt
	$(BIN)/resdet infer --weights $(QUICK)/pretrained/weights/best.pt --conf best --out $(QUICK)/found \
		$(QUICK)/data/synthetic/JPEGImages/val_000[01]?.jpg
	@echo "== 5/5 write a page of all of it"
	$(BIN)/resdet report $(QUICK)/pretrained --detections $(QUICK)/found --out $(QUICK)/report.html
	@echo "next: make comparison, or your own images: docs/first_detector.md"

comparison: $(VENV)/installed
	test -f $(QUICK)/pretrained/eval/metrics.json || $(MAKE) quickstart
	rm -rf $(QUICK)/scratch
	@echo "== 1/2 train the quickstart's detector from scratch, for the same number of steps"
	$(BIN)/resdet train-det --cfg quickstart_r18.yaml data.root=$(QUICK)/data --out $(QUICK)/scratch
	@echo "== 2/2 evaluate it; compare it with the one on the classifier's backbone"
	$(BIN)/resdet eval --weights $(QUICK)/scratch/weights/best.pt
	$(BIN)/resdet curves $(QUICK)/scratch $(QUICK)/pretrained --out $(QUICK)/curves.png
	$(BIN)/resdet compare $(QUICK)/scratch $(QUICK)/pretrained --page $(QUICK)/comparison.html

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

# uv takes a quarter of pip's time, but does not read pip's settings: pip installs where they name an
# index or limits, and where uv fails.
install = { ! $(BIN)/python -m pip config list | grep -qE 'index|constraint' \
	&& $(MAKE) --no-print-directory $(UV) \
	&& $(UV) pip install --python $(BIN)/python $(1); } \
	|| { $(BIN)/python -m pip install --quiet --upgrade pip \
	&& $(BIN)/python -m pip install $(1); }

$(VENV)/installed: pyproject.toml setup.py
	@echo "== install into $(VENV): 3 GB to fetch and 6 GB on the disk, most of it PyTorch, which on"
	@echo "   Linux is its build for GPUs; large files are named with their size"
	$(PYTHON) -m venv $(VENV)
	@$(call install,--editable .)
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@$(call install,--quiet --editable ".[dev]")
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	@$(call install,--quiet --editable ".[docs]")
	touch $@

# Wheels alone, so that no package runs code while it is installed, and without the limits of the
# machine's pip, which may contradict the file. The package itself is built with what is installed.
locked: $(VENV)/installed-locked
$(VENV)/installed-locked: requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=/dev/null $(BIN)/python -m pip install --quiet --require-hashes \
		--only-binary :all: --requirement requirements-dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $(VENV)/installed $(VENV)/installed-dev $(VENV)/installed-docs $@

# Versions in the file are kept while they satisfy pyproject.toml.
lock: $(UV)
	$< pip compile --quiet --universal --generate-hashes --only-binary :all: --extra dev --extra docs \
		$(if $(UPGRADE),--upgrade) --custom-compile-command "make lock" \
		--output-file requirements-dev.txt pyproject.toml

$(UV):
	$(PYTHON) -m venv $(VENV)/uv
	$(VENV)/uv/bin/python -m pip install --quiet uv

clean:
	rm -rf $(VENV) build dist docs/_build docs/reference *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
