# Each target makes .venv and installs what it needs by itself.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
export JAX_PLATFORMS ?= cpu
# Compiled programs are kept in the environment's own folder, so that a second run starts at once.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/$(VENV)/jax-cache
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0

.PHONY: demo test test-all lint bench clean
.DELETE_ON_ERROR:

$(BIN)/.installed: pyproject.toml .ci/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("debias_jax needs Python >= 3.11, found " + sys.version.split()[0] + "; pass PYTHON=/path/to/python") if sys.version_info < (3, 11) else None'
	@echo "setting up $(VENV) with $$($(PYTHON) --version) (once; a few minutes)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]' -c .ci/constraints.txt
	@touch $@

demo: $(BIN)/.installed  ## train eight methods on simulated data with known truth and compare them
	$(BIN)/python launch/train.py --config=configs/synthetic.py:demo --workdir=runs/demo

test: $(BIN)/.installed  ## the whole default test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-all: $(BIN)/.installed  ## the default suite and what is marked slow
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'slow or not slow'

lint: $(BIN)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(BIN)/.installed  ## speed as ratios; needs DEBIAS_DATA_DIR for Coat, else simulated data of its size
	$(BIN)/python benchmarks/mf_step.py

clean:
	rm -rf $(VENV) runs
