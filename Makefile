# make setup       .venv with the package (editable), its extras and torch
# make demo        compress a generated volume and read it back, in a few minutes with all compiling
# make test        the whole suite, on the CPU
# make test-gpu    only the tests that need a GPU
# make check       linter, formatter and type checker
# make format      apply the formatter and the linter's safe repairs
# make test-matrix other Python and zarr versions, each in a throw-away environment

SHELL := bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.tinc-installed
PIP := $(BIN)/python -m pip --disable-pip-version-check
# pip compiles Python files one after the other: that is done on all processors, at the end.
# The local version label "+cpu" exists for CPU builds only, so no CUDA wheel can be picked.
TORCH_CPU ?= torch==2.13.0+cpu
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: setup demo test test-gpu check format test-matrix clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@$(install_torch)
	$(PIP) install --quiet --no-compile --editable '.[dev]'
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true  # some packages hold templates
	@touch $@

# With a GPU: the default build. On macOS: the default build, which has no CUDA. Else the CPU build:
# from the configured indexes, then from PyTorch's own, with few and short attempts, for where that
# index is out of reach. Without any, all but the torch tests still work.
define install_torch
if $(BIN)/python -c 'import torch' 2>/dev/null; then echo "torch is there"; \
elif nvidia-smi >/dev/null 2>&1 || [ "$$(uname -s)" = Darwin ]; then $(PIP) install --quiet --no-compile torch; \
else \
  echo "no GPU found: installing the CPU build of torch"; \
  $(PIP) --retries 1 --timeout 20 install --quiet --no-compile '$(TORCH_CPU)' 2>/dev/null \
  || $(PIP) --retries 1 --timeout 20 install --quiet --no-compile '$(TORCH_CPU)' --extra-index-url $(TORCH_CPU_INDEX) \
  || echo "no CPU build of torch for this machine ($(TORCH_CPU)): going on without it;" \
          "the tests that need torch will be skipped"; \
fi
endef

demo: setup
	$(BIN)/tinc demo

# Files of tests side by side; a file's tests share what they set up. One thread for each library's
# own loops: those of several processes wait for each other on every processor.
test: setup
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest \
	  -n auto --maxprocesses 4 --dist loadfile

test-gpu: setup
	$(BIN)/python -m pytest -m gpu

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-matrix:
	.ci/matrix

clean:
	rm -rf $(VENV) .venv-* build dist tinc-demo .mypy_cache .pytest_cache .ruff_cache .hypothesis
