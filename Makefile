# The commands of this project. `make help` lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UV := $(BIN)/uv
UV_VERSION := $(shell sed -n 's/^uv==//p' constraints.txt)
# All but common-ai: its provider would be in every process of Airflow that the tests start. `make matrix` installs it.
EXTRAS := $(shell sed -n '/^\[project.optional-dependencies\]/,/^$$/s/^\([a-z0-9-]*\) = .*/--extra \1/p' pyproject.toml | grep -v common-ai)
COMPILE := $(UV) pip compile --quiet --no-header --no-annotate --no-emit-index-url --no-emit-find-links

# What `make fast` runs: the rooms that import no Airflow, which it forbids while they run.
FAST := $(wildcard tests/guards tests/wire tests/client tests/chat tests/enrichment tests/emulator tests/test_exceptions.py)
# What `make fast` runs once more with httpx2 in the place of httpx.
OVER_HTTP := tests/client/test_client.py tests/client/test_async_client.py tests/client/test_account_calls.py \
	tests/client/test_http_library.py $(wildcard tests/client/test_transport*.py) tests/client/test_public_network.py
# Each starts an Airflow of its own and takes about a minute, so they run with the long suites.
LONG_E2E := tests/e2e/test_demo.py tests/e2e/test_moves.py tests/e2e/test_postgres.py tests/e2e/test_stack.py tests/e2e/test_tables.py \
	tests/e2e/test_trouble.py tests/e2e/test_tutorial.py
# A hundred requests, a pause, a limit and an approval on one Airflow take four minutes, most of them waiting.
WAITING_E2E := tests/e2e/test_approval.py tests/e2e/test_in_flight.py tests/e2e/test_pausing.py tests/e2e/test_requests.py
# Each runs DAGs in an Airflow process with settings of its own; the others fork theirs (tests/support/dag_runs.py).
LONG_DAGS := tests/dags/test_lineage.py tests/dags/test_metrics.py tests/dags/test_rendering.py
# It starts an API server, and looks at each view four times.
LONG_BROWSER := tests/browser/test_page.py
SLOW := tests/packaging tests/browser tests/e2e tests/crash tests/matrix
# All others, and the files of the fast rooms that have a test with Airflow.
REST = $(filter-out $(FAST) $(SLOW),$(patsubst %/,%,$(wildcard tests/*/)) $(wildcard tests/test_*.py)) \
	$(shell grep -rl --include=test_*.py "mark.airflow" $(FAST))
# Enrichments and chats of this process and its children, without Airflow's processes.
CRASH_ENGINE := tests/crash/test_enrich.py tests/crash/test_overlap.py tests/crash/test_one_truth.py
PYTEST := $(BIN)/python -m pytest
# Two at a time, because they wait for much of their time; the output of each in one piece.
PARALLEL := $(MAKE) --no-print-directory --jobs 2 --output-sync=target

# $(call pytest,DIRECTORY,OPTIONS): an empty suite says so and passes; one that has files but runs no test fails (pytest's exit 5).
pytest = if [ -n "$$(find $(1) -name 'test_*.py' -print -quit 2>/dev/null)" ]; then $(PYTEST) $(1) $(2); \
	else echo "$(1) holds no tests."; fi

# A process of Airflow imports 2,000 modules; without bytecode files it compiles them again, which is a third of its start.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install constraints format lint fast over-httpx2 test short-e2e packaging-and-browser browser chromium \
	crash crash-airflow crash-engine long-e2e waiting-e2e long-dags all-examples long-browser crash-overlap crash-budget budget budget-seeds matrix bench bench-scale demo demo-enrich docs screenshots clean

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
		--requirements pyproject.toml $(EXTRAS) --group dev --editable .
	@touch $@

constraints: $(STAMP) ## Renew all pins: the newest versions of everything except Airflow
	$(COMPILE) --universal --fork-strategy fewest --python-version 3.11 --upgrade $(EXTRAS) --group dev --group types \
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
	@$(PARALLEL) lint over-httpx2
	SEGMIND_TESTS_FORBID_AIRFLOW=1 $(PYTEST) $(FAST) -m "not airflow" --numprocesses 2 --dist loadfile --no-loadscope-reorder

over-httpx2:
	SEGMIND_TESTS_FORBID_AIRFLOW=1 SEGMIND_TESTS_HTTPX2=1 $(PYTEST) $(OVER_HTTP)

test: fast ## Everything except the long suites, fast first, stopping at the first stage that fails
	$(PYTEST) $(REST) $(LONG_DAGS:%=--ignore=%) --numprocesses 2 --dist loadfile --no-loadscope-reorder
	@$(PARALLEL) short-e2e packaging-and-browser

short-e2e:
	@$(call pytest,tests/e2e,$(LONG_E2E:%=--ignore=%) $(WAITING_E2E:%=--ignore=%))

packaging-and-browser: chromium
	@$(call pytest,tests/packaging)
	@$(call pytest,tests/browser,$(LONG_BROWSER:%=--ignore=%))

browser: $(STAMP) chromium ## The report and the page in a real browser; installs Debian's chromium if it may
	@$(call pytest,tests/browser)

chromium:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y chromium >/dev/null; } || \
		echo "chromium is missing. Run: sudo apt-get install chromium"

# Every part runs, whatever the others end with.
crash: $(STAMP) ## Kill enrichments and real Airflow processes, and check what was paid; the long tests of real processes
	@$(PARALLEL) --keep-going crash-airflow crash-engine budget-seeds long-e2e waiting-e2e long-dags all-examples long-browser docs

crash-airflow:
	@$(call pytest,tests/crash,$(CRASH_ENGINE:%=--ignore=%) --durations 10)

crash-engine:
	$(PYTEST) $(CRASH_ENGINE) --numprocesses 2

budget-seeds:
	SEGMIND_BUDGET_SEEDS=40 $(PYTEST) tests/budget/test_simulation.py --numprocesses 2

long-e2e:
	@$(call pytest,$(LONG_E2E),--durations 10)

waiting-e2e:
	@$(call pytest,$(WAITING_E2E))

long-dags:
	@$(call pytest,$(LONG_DAGS))

all-examples: # All examples of the tests of properties; elsewhere these try a third of them.
	SEGMIND_TESTS_ALL_EXAMPLES=1 $(PYTEST) $(FAST) $(REST) -m hypothesis --numprocesses 2

long-browser: chromium
	@$(call pytest,$(LONG_BROWSER))

SEEDS ?= 50
crash-overlap: $(STAMP) ## Overlap runs on one ledger, and kill and freeze them: SEEDS=50
	SEGMIND_OVERLAP_SEEDS=$(SEEDS) $(PYTEST) tests/crash/test_overlap.py --numprocesses 2 -rP | grep -E "FIGURES|passed|failed"

budget: $(STAMP) ## Spend budgets on a simulated clock, with kills and faults: SEEDS=1000
	SEGMIND_BUDGET_SEEDS=$(SEEDS) $(PYTEST) tests/budget/test_simulation.py --numprocesses 2 -rP | grep -E "FIGURES|passed|failed"

BUDGET_SEEDS = $(if $(filter command line,$(origin SEEDS)),$(SEEDS),5)
crash-budget: $(STAMP) ## Kill tables, chats and Celery workers that share a budget: SEEDS=200, FIRST=0
	SEGMIND_BUDGET_CRASH_SEEDS=$(BUDGET_SEEDS) SEGMIND_BUDGET_CRASH_FIRST=$(or $(FIRST),0) $(PYTEST) tests/crash/test_budget.py --capture=no | grep --line-buffered -E "FIGURES|passed|failed"

matrix: $(STAMP) ## The DAG tests on every supported Airflow; MATRIX="2.11.0 3.3.2" takes some
	$(BIN)/python -m tests.matrix $(MATRIX)

# Two environments: our package alone, and with aiohttp beside the peers.
.venvs/bench/.installed: $(STAMP) benchmarks/requirements.txt
	$(UV) venv --quiet --allow-existing --python $(BIN)/python .venvs/bench
	$(UV) venv --quiet --allow-existing --python $(BIN)/python .venvs/bench-default
	$(UV) pip install --quiet --compile-bytecode --python .venvs/bench/bin/python --constraints constraints.txt \
		--requirements benchmarks/requirements.txt --editable .
	$(UV) pip install --quiet --compile-bytecode --python .venvs/bench-default/bin/python --constraints constraints.txt --editable .
	@touch $@

# --compile-bytecode leaves out the code of an editable package, which would then be compiled inside the measurements.
bench: .venvs/bench/.installed ## What we cost beside the peers, in 5 minutes; FULL=1 takes 40; ONLY=waiting takes a part
	@.venvs/bench/bin/python -m compileall -q airflow_provider_segmind benchmarks
	@.venvs/bench/bin/python -m benchmarks $(if $(FULL),--full) $(if $(ONLY),--only $(ONLY)) \
		$(if $(LEDGER_ROWS),--ledger-rows $(LEDGER_ROWS)) </dev/null

bench-scale: ## A million rows, 10,000 pending requests, 16 shards and a slow store, in 15 minutes; FULL=1 has no limit
	@$(MAKE) --no-print-directory bench ONLY=scale

demo: $(STAMP) ## A request from DAG to result; KEEP=1 leaves the UI up, LIVE=1 asks the real service
	@$(BIN)/python -m demo $(if $(KEEP),--keep) $(if $(LIVE),--live)

demo-enrich: $(STAMP) ## A table of ROWS products described row by row; KEEP=1 leaves the UI up
	@$(BIN)/python -m demo.enrich $(if $(ROWS),--rows $(ROWS)) $(if $(KEEP),--keep)

docs: $(STAMP) ## Build the documentation's site in build/docs; a warning is an error
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -b html -d build/doctrees docs build/docs
	@echo "Built: build/docs/index.html"

screenshots: $(STAMP) chromium ## Take the pictures of the documentation again, of a real Airflow
	@$(BIN)/python -m demo.screenshots

clean: ## Remove what the commands above built
	rm -rf $(VENV) .venvs .demo .tmp build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
