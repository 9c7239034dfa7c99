# make demo | test | lint | docs | bench | clean. Needs Python 3.11 or newer; everything else is installed into .venv.

VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
BENCHMARKS := loop reading streaming components faults population drift

# The first Python that is new enough and can make virtual environments; `make PYTHON=/path/to/python` overrides it.
USABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3 python3.11 python3.12 python3.13 python3.14; do \
	"$$python" -c '$(USABLE)' >/dev/null 2>&1 && { echo "$$python"; break; }; done)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test docs lint bench clean

help:
	@echo 'make demo    install into $(VENV), then train on handwritten digits'
	@echo 'make test    install into $(VENV), check style and types, run all tests'
	@echo 'make lint    style and types only'
	@echo 'make docs    write docs/reference/ from the docstrings'
	@echo 'make bench   install into $(VENV), measure speed and faults side by side (long)'
	@echo 'make clean   remove $(VENV) and what tools cached; runs/ stays'

demo: $(VENV)/.caviar
	$(BIN)/caviar train sample:digits

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

docs: $(VENV)/.caviar-test
	$(BIN)/python -m docs.build

lint: $(VENV)/.caviar-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.caviar-bench
	set -e; for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py; done

clean:
	rm -rf $(VENV) build dist caviar.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find caviar tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp a set of extras: nothing is installed again until the packaging or the constraints change.
$(VENV)/.caviar: EXTRAS :=
$(VENV)/.caviar-test: EXTRAS := [test]
$(VENV)/.caviar-bench: EXTRAS := [bench]
$(VENV)/.caviar $(VENV)/.caviar-test $(VENV)/.caviar-bench: pyproject.toml constraints.txt | $(VENV)/.made
	@echo 'installing caviar and what it needs into $(VENV): minutes the first time'
	@$(PIP) setuptools
	@$(PIP) --no-build-isolation -e '.$(EXTRAS)'
	@touch $@

$(VENV)/.made:
	@"$(PYTHON)" -c '$(USABLE)' 2>/dev/null || { \
		echo 'caviar needs Python 3.11 or newer with its venv module (on Debian: python3-venv); none was found.' >&2; \
		echo 'Install one, or name it: make PYTHON=/path/to/python ...' >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	@touch $@
