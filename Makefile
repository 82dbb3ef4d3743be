# `make demo` and `make test` set everything up themselves; they need Python 3.11 or newer, no more.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable
# TrackEval, which a test compares with, requires an OpenCV that writes over the headless one.
NO_DEPS = $(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps
# Weights, recipe and clip that come with the project.
EXAMPLE := examples/emoji_vis

.PHONY: demo test lint types clean

demo: $(VENV)/.eval
	$(BIN)/vpp-deploy export $(EXAMPLE)/emoji.safetensors --recipe $(EXAMPLE)/emoji-55.toml --out export/demo
	$(BIN)/vpp-deploy run $(EXAMPLE)/clip.mp4 --model export/demo --annotate --tokens --out demo/clip

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

$(VENV)/.eval $(VENV)/.test $(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) ".[cpu,export,$(patsubst .%,%,$(notdir $@))]"
	$(if $(filter %/.test,$@),$(NO_DEPS) trackeval)
	touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; name one with PYTHON=")'
	$(PYTHON) -m venv $(VENV)
