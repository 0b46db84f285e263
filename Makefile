# make demo   three Triton kernels on the GPU, or on the emulator where there is none
# make test   ruff, mypy and the test suite, then lowering with an old, a middle and the newest release of Triton
#
# Both set up .venv themselves, from python3 and make alone. PYTHON=python3.12 and VENV=path choose others.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
# One test process a core; the GPU tests print their tables only without.
WORKERS ?= -n logical
# Releases of hip-python that the tests of the HIP driver run with, beside the newest; none with HIP_RELEASES=
HIP_RELEASES ?= 6.4 7.2
# Releases of Triton that the tests of lowering run with, each in an environment of its own; `nox -s matrix` takes all.
TRITONS ?= 3.2.0 3.6.0 3.9.0

# The scripts among the modules of benchmarks/.
BENCHMARKS ?= $(shell grep -l __main__ benchmarks/*.py)

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

bin := $(VENV)/bin
pip := $(bin)/python -m pip --disable-pip-version-check --quiet
# What decides which packages are needed and how the project is installed.
recipe := pyproject.toml setup.py $(wildcard trlaunch/native/*.[ch])

empty :=
space := $(empty) $(empty)

.PHONY: help demo test test-triton test-passes test-dumps lint format coverage docs bench clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile
	@echo 'make lint | format | coverage | docs | bench | clean'

demo: $(VENV)/.demo
	@$(bin)/python examples/demo.py

# PYTEST_ARGS choose a part of the suite, and then only that runs.
test: lint $(HIP_RELEASES:%=$(VENV)/hip-%/.done)
	TRLAUNCH_TEST_HIP_PYTHONS=$(subst $(space),:,$(HIP_RELEASES:%=$(abspath $(VENV))/hip-%/bin/python)) \
	  $(bin)/python -m pytest $(WORKERS) $(PYTEST_ARGS)
ifeq ($(strip $(PYTEST_ARGS)),)
	@$(MAKE) --no-print-directory test-triton
else
	@echo 'PYTEST_ARGS given: lowering with Triton $(TRITONS) is left out (make test-triton)'
endif

# The tests of passes start behind each pass of a pipeline, minutes for each release: `make test-passes`.
test-triton: $(TRITONS:%=$(VENV)/triton-%/.ready)
	@for release in $(TRITONS); do \
	  echo "== lowering with Triton $$release"; \
	  $(VENV)/triton-$$release/bin/python -m pytest $(WORKERS) tests/lowering tests/compat \
	    --ignore=tests/lowering/test_passes.py; \
	done

test-passes: $(TRITONS:%=$(VENV)/triton-%/.ready)
	@for release in $(TRITONS); do \
	  echo "== passes of Triton $$release"; \
	  $(VENV)/triton-$$release/bin/python -m pytest $(WORKERS) tests/lowering/test_passes.py; \
	done

# Dumps with each release, two minutes for each; heat maps need no Triton and are in the suite.
test-dumps: $(TRITONS:%=$(VENV)/triton-%/.ready)
	@for release in $(TRITONS); do \
	  echo "== dumps with Triton $$release"; \
	  $(VENV)/triton-$$release/bin/python -m pytest $(WORKERS) tests/dump --ignore=tests/dump/test_plot.py; \
	done

lint: $(VENV)/.dev
	$(bin)/ruff check .
	$(bin)/ruff format --check --quiet .
	$(bin)/mypy

format: $(VENV)/.dev
	$(bin)/ruff check --fix .
	$(bin)/ruff format .

coverage: $(VENV)/.dev
	$(bin)/python -m pytest --cov --cov-report=term --cov-report=html $(PYTEST_ARGS)

docs: $(VENV)/.dev
	$(bin)/python docs/generate_api.py

bench: $(VENV)/.dev
	@left= failed=; for script in $(BENCHMARKS); do \
	  echo "== $$script"; code=0; $(bin)/python $$script || code=$$?; \
	  if [ $$code = 2 ]; then left="$$left $$script"; elif [ $$code != 0 ]; then failed="$$failed $$script"; fi; \
	done; \
	[ -z "$$left" ] || echo "cannot run here:$$left"; \
	[ -z "$$failed" ] || { echo "failed:$$failed"; exit 1; }

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(bin)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "trlaunch needs Python 3.10 or newer, found: $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name another with: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make a virtual environment with pip. On Debian and Ubuntu: apt install python3-venv" >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV)

# One stamp for each set of extras: a later call costs a stat, and a changed recipe installs again.
$(VENV)/.demo: $(recipe) | $(bin)/python
	$(pip) install --editable '.[cuda,cli]'
	@touch $@

$(VENV)/.dev: $(recipe) | $(bin)/python
	$(pip) install --editable '.[dev]'
	@touch $@ $(VENV)/.demo

# Releases up to 3.2 import setuptools and declare filelock. pip keeps the wheels, 200 MB and more each, for other clones.
$(VENV)/triton-%/.ready: $(recipe) | $(bin)/python
	$(bin)/python -m venv $(@D)
	$(@D)/bin/python -m pip --disable-pip-version-check --quiet install --editable '.[cli]' 'triton==$*' \
	  'setuptools<80' filelock 'pytest>=8.3' 'pytest-xdist>=3.6' 'hypothesis>=6.100'
	@touch $@

# A Python with another release of hip-python and what trlaunch itself needs.
$(VENV)/hip-%/.done: $(recipe) | $(bin)/python
	$(bin)/python -m venv $(@D)
	$(@D)/bin/python -m pip --disable-pip-version-check --quiet install 'hip-python==$*.*' --editable . 'pytest>=8.3' 'hypothesis>=6.100'
	@touch $@
