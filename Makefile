# What one does with Deltavisor, for people and CI alike. `make help` lists it.

PYTHON ?= python3
ARGS ?= tests --ignore=tests/benchmarks
UP_ARGS ?= --simulate
MINUTES ?= 30
SOAK_RESULT ?= docs/benchmarks/soak-crash.json

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
LOCKS := requirements/run.txt requirements/stack.txt requirements/dev.txt

COMPILE := uv pip compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links \
	--python-version 3.11 --universal --custom-compile-command "make requirements"

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo up test check lint bench soak-crash requirements clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## Make .venv, fetch the embedded servers, and install what the libvirt tests need (root on Debian)
	@$(BIN)/deltavisor stack up --fetch-only
	@if [ -x infra/stack/libvirt.sh ]; then infra/stack/libvirt.sh; fi

demo: setup ## Run a simulated fleet for DEMO_SECONDS (60), check the outcome, stop everything
	@$(BIN)/deltavisor demo

up: setup ## Run all parts with a simulated fleet in the foreground until Ctrl-C; UP_ARGS= for the real parts alone
	@$(BIN)/deltavisor up $(UP_ARGS)

test: setup ## Run the tests: all, or ARGS="tests/unit -k x"
	@$(BIN)/python -m pytest $(ARGS)

check: $(INSTALLED) lint ## Format, lint, types, unit and property tests: under a minute
	@$(BIN)/python -m pytest -q tests/unit tests/properties

lint: $(INSTALLED) ## Format, lint and types only
	@$(BIN)/ruff format --check --quiet . || { echo "run: $(BIN)/ruff format ." >&2; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy

bench: setup ## Run one benchmark: NAME=latency. Its result is the last line, as JSON
	@test -n "$(NAME)" || { echo "which one? make bench NAME=latency" >&2; exit 2; }
	@$(BIN)/python -m tests.benchmarks.$(NAME)

soak-crash: setup ## Kill every part at random for MINUTES (30), SEED=n; the result is kept as docs/benchmarks/soak-crash.json
	@$(BIN)/python -m tests.faults.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) --keep $(SOAK_RESULT)

requirements: $(INSTALLED) ## Bring the locks up to date with their .in files; UPGRADE=--upgrade takes newer versions
	@for lock in run stack dev libvirt bench; do \
		$(BIN)/$(COMPILE) $(UPGRADE) requirements/$$lock.in --output-file requirements/$$lock.txt >/dev/null || exit 1; \
	done

clean: ## Stop and delete all stacks, and delete .venv and every cache
	@if [ -x $(BIN)/deltavisor ]; then for state in .stack/*/stack.json; do \
		if [ -f "$$state" ]; then $(BIN)/deltavisor stack reset --yes --name "$$(basename "$$(dirname "$$state")")" || exit 1; fi; \
	done; fi
	@rm -rf .stack $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Python 3.11 or later is needed: install it, or name it with PYTHON=/path/to/python3.11." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "Python's venv is missing: install it (Debian: apt-get install python3-venv)." >&2; exit 1; }
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(INSTALLED): $(LOCKS) pyproject.toml | $(VENV)/bin/python
	@echo "installing Python packages"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes $(addprefix -r ,$(LOCKS))
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
