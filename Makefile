# The commands of this project. `make help` lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UV := $(BIN)/uv
UV_VERSION := $(shell sed -n 's/^uv==//p' constraints.txt)
COMPILE := $(UV) pip compile --quiet --no-header --no-annotate --no-emit-index-url --no-emit-find-links

# What `make fast` runs: the rooms that import no Airflow, which it forbids while they run.
FAST := $(wildcard tests/guards tests/wire tests/client tests/chat tests/enrichment tests/emulator tests/test_exceptions.py)
# What `make fast` runs once more with httpx2 in the place of httpx.
OVER_HTTP := tests/client/test_client.py $(wildcard tests/client/test_transport*.py) tests/client/test_public_network.py
# Each starts an Airflow of its own and takes about a minute, so they run with the long suites.
LONG_E2E := tests/e2e/test_demo.py tests/e2e/test_postgres.py tests/e2e/test_tables.py
SLOW := tests/packaging tests/browser tests/e2e tests/crash tests/matrix
PYTEST := $(BIN)/python -m pytest

# $(call pytest,DIRECTORY,OPTIONS): an empty suite says so and passes; one that has files but runs no test fails (pytest's exit 5).
pytest = if [ -n "$$(find $(1) -name 'test_*.py' -print -quit 2>/dev/null)" ]; then $(PYTEST) $(1) $(2); \
	else echo "$(1) holds no tests."; fi

.DEFAULT_GOAL := help
.PHONY: help install constraints format lint fast test browser crash crash-overlap matrix bench demo demo-enrich clean

help: ## List the commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

install: $(STAMP) ## Build .venv from the pinned constraints

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "$(PYTHON) must be Python 3.11, 3.12 or 3.13: make install PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		if [ "$$(id -u)" = 0 ]; then apt-get -qq update && apt-get -qq install -y python3-venv; \
		else echo "Python's venv module is missing. Run: sudo apt-get install python3-venv"; exit 1; fi; }
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml constraints.txt airflow_provider_segmind/__init__.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(UV) pip install --quiet --python $(BIN)/python --constraints constraints.txt --build-constraints constraints.txt \
		--requirements pyproject.toml --all-extras --group dev --editable .
	@touch $@

constraints: $(STAMP) ## Renew all pins: the newest versions of everything except Airflow
	$(COMPILE) --universal --fork-strategy fewest --python-version 3.11 --upgrade --all-extras --group dev \
		--constraints constraints/airflow.txt pyproject.toml | sed 's/ *;.*//' > $(VENV)/constraints.new
	@test -z "$$(cut -d= -f1 $(VENV)/constraints.new | sort | uniq -d)" || { echo "A package has two versions."; exit 1; }
	mv $(VENV)/constraints.new constraints.txt
	$(BIN)/python -m tests.matrix --renew

format: $(STAMP) ## Format the code and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(STAMP) ## Format check, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fast: $(STAMP) ## What needs no Airflow, in about two minutes
	@$(MAKE) --no-print-directory lint
	SEGMIND_TESTS_FORBID_AIRFLOW=1 $(PYTEST) $(FAST) -m "not airflow" --numprocesses 2 --dist loadfile
	SEGMIND_TESTS_FORBID_AIRFLOW=1 SEGMIND_TESTS_HTTPX2=1 $(PYTEST) $(OVER_HTTP) --numprocesses 2

test: fast ## Everything except the long suites, fast first, stopping at the first stage that fails
	$(PYTEST) $(FAST) -m airflow
	$(PYTEST) tests $(FAST:%=--ignore=%) $(SLOW:%=--ignore=%) --numprocesses 2 --dist loadfile
	@$(call pytest,tests/packaging)
	@$(MAKE) --no-print-directory browser
	@$(call pytest,tests/e2e,$(LONG_E2E:%=--ignore=%))

browser: $(STAMP) ## The report in a real browser; installs Debian's chromium if it may
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y chromium >/dev/null; } || \
		echo "chromium is missing. Run: sudo apt-get install chromium"
	@$(call pytest,tests/browser)

crash: $(STAMP) ## Kill enrichments and real Airflow processes, and check what was paid
	$(PYTEST) tests/crash/test_enrich.py tests/crash/test_overlap.py --numprocesses 2
	@$(call pytest,tests/crash,--ignore=tests/crash/test_enrich.py --ignore=tests/crash/test_overlap.py)
	@$(call pytest,$(LONG_E2E))

SEEDS ?= 50
crash-overlap: $(STAMP) ## Overlap runs on one ledger, and kill and freeze them: SEEDS=50
	SEGMIND_OVERLAP_SEEDS=$(SEEDS) $(PYTEST) tests/crash/test_overlap.py --numprocesses 2 -rP | grep -E "FIGURES|passed|failed"

matrix: $(STAMP) ## The DAG tests on every supported Airflow; MATRIX="2.11.0 3.3.2" takes some
	$(BIN)/python -m tests.matrix $(MATRIX)

# Two environments: our package alone, and with aiohttp beside the peers.
.venvs/bench/.installed: $(STAMP) benchmarks/requirements.txt
	$(UV) venv --quiet --allow-existing --python $(BIN)/python .venvs/bench
	$(UV) venv --quiet --allow-existing --python $(BIN)/python .venvs/bench-default
	$(UV) pip install --quiet --python .venvs/bench/bin/python --constraints constraints.txt \
		--requirements benchmarks/requirements.txt --editable .
	$(UV) pip install --quiet --python .venvs/bench-default/bin/python --constraints constraints.txt --editable .
	@touch $@

bench: .venvs/bench/.installed ## What we cost beside the peers, in 5 minutes; FULL=1 takes 40; ONLY=waiting takes a part
	@.venvs/bench/bin/python -m benchmarks $(if $(FULL),--full) $(if $(ONLY),--only $(ONLY)) </dev/null

demo: $(STAMP) ## A request from DAG to result; KEEP=1 leaves the UI up, LIVE=1 asks the real service
	@$(BIN)/python -m demo $(if $(KEEP),--keep) $(if $(LIVE),--live)

demo-enrich: $(STAMP) ## A table of ROWS products described row by row; KEEP=1 leaves the UI up
	@$(BIN)/python -m demo.enrich $(if $(ROWS),--rows $(ROWS)) $(if $(KEEP),--keep)

clean: ## Remove what the commands above built
	rm -rf $(VENV) .venvs .demo .tmp build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
