# segray from a clone: needs Python 3.11 or newer, with venv, and make. `make help` lists what it does.

PYTHON ?=
VENV ?= .venv
DATA ?=
OUT ?= demo
PIP_ARGS ?=
PYTEST_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt $(PIP_ARGS)

.DEFAULT_GOAL := help
.PHONY: help install dev demo test test-long lint types clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "Settings: PYTHON=python3.12 (the interpreter), VENV=.venv, PIP_ARGS=... (more arguments of pip install, such as"
	@echo "--extra-index-url https://download.pytorch.org/whl/cpu for the small torch without CUDA), PYTEST_ARGS=..."

# Stamps: a virtual environment is made once, and pip runs again only after its inputs changed.
$(VENV)/.made:
	@set -e; \
	found=; \
	for candidate in $(or $(PYTHON),python3.11 python3 python3.12 python3.13); do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$candidate; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  version=$$($(or $(PYTHON),python3) --version 2>/dev/null) || version="not there"; \
	  echo "segray needs Python 3.11 or newer; $(or $(PYTHON),python3) is $$version." \
	    "Install it and run: make PYTHON=python3.11" >&2; exit 1; \
	fi; \
	if ! "$$found" -c 'import ensurepip, venv' 2>/dev/null; then \
	  echo "$$found has no venv module. On Debian and Ubuntu: apt-get install $$($$found -c \
	    'import sys; print("python%d.%d-venv" % sys.version_info[:2])')" >&2; exit 1; \
	fi; \
	echo "Making $(VENV) with $$($$found --version)"; \
	"$$found" -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing segray and what it needs into $(VENV); this takes some minutes the first time"
	@$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.installed .venv-moto/.made
	@echo "Installing what the tests and checks need"
	@$(PIP) -e ".[dev]"
	@touch $@

.venv-moto/.made: $(VENV)/.made tests/moto.txt
	@$(BIN)/python -m venv .venv-moto
	@.venv-moto/bin/python -m pip install --disable-pip-version-check -q -r tests/moto.txt
	@touch $@

install: $(VENV)/.installed ## make the virtual environment and install segray into it

dev: $(VENV)/.dev ## the same with what tests and checks need

# Exit code 3 means: finished, but some cases failed. The command has said which; that is no failure of make.
demo: $(VENV)/.installed ## phantoms, ingest, train, predict, evaluate, report; DATA=folder: on your cases; OUT=demo
	@$(BIN)/segray demo $(if $(DATA),--data "$(DATA)") --out "$(OUT)" || [ $$? -eq 3 ]

# Those that share the Ray of the session run one after the other; of the rest as many at a time as there are cores.
test: $(VENV)/.dev ## all tests that need one machine, no root and no data, but the long ones
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not ray and not cluster and not browser and not realdata" \
	  -n auto --maxprocesses 8 --dist loadscope $(PYTEST_ARGS)
	@$(BIN)/python -m pytest -m "ray and not long and not cluster and not browser and not realdata" $(PYTEST_ARGS)

test-long: $(VENV)/.dev ## those that train or sweep for a minute each, with real kills among them
	@$(BIN)/python -m pytest -m "long and not cluster and not browser and not realdata" $(PYTEST_ARGS)

lint: $(VENV)/.dev ## ruff and import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

types: $(VENV)/.dev ## mypy --strict
	@$(BIN)/mypy
	@MYPYPATH=benchmarks:benchmarks/quality $(BIN)/mypy benchmarks/*.py benchmarks/quality/*.py

clean: ## remove the virtual environment, caches and the demo
	rm -rf $(VENV) .venv-moto demo .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info build
	find segray tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
