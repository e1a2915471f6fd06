# Names for the plain commands; each works by hand as well (README.md, CONTRIBUTING.md).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help run test setup check format unit contract e2e services services-down dist clean

help:
	@echo "make run       start an archive with sample studies (http://localhost:5985)"
	@echo "make test      run every test"
	@echo "make setup     install everything for development"
	@echo "make check     lint, format, types, import rules"
	@echo "make format    put the code into its format"
	@echo "make unit | contract | e2e     a part of the tests"
	@echo "make services  start a MongoDB and a CouchDB in Docker, to run the tests of theirs on"
	@echo "make dist      build the wheel and the source archive"
	@echo "make clean     remove $(VENV) and everything that is built"

run: $(VENV)/.installed-run
	$(BIN)/dicomweb-server demo $(ARGS)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(ARGS)

unit: $(VENV)/.installed-test
	$(BIN)/python -m pytest tests/unit tests/http $(ARGS)

contract: $(VENV)/.installed-test
	$(BIN)/python -m pytest tests/contract $(ARGS)

e2e: $(VENV)/.installed-test
	$(BIN)/python -m pytest tests/e2e tests/docs $(ARGS)

services:
	docker compose up --detach --wait
	@echo "Both run until: make services-down. To run the tests on them:"
	@echo "  export MONGODB_URL=mongodb://127.0.0.1:27017 COUCHDB_URL=http://admin:password@127.0.0.1:5984"
	@echo "  make contract"

services-down:
	docker compose down --volumes

setup: $(VENV)/.installed-dev

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

dist: $(VENV)/.installed-dev
	rm -rf build dist
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v < (3, 11) and "dicomweb-server needs Python 3.11 or newer; $(PYTHON) is %d.%d. Name another: make PYTHON=python3.12 ..." % v)'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "Python's venv module is missing (Debian: apt install python3-venv)" >&2; exit 1; }

$(VENV)/.installed-run: $(BIN)/python setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-test: $(BIN)/python setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

$(VENV)/.installed-dev: $(BIN)/python setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.installed-run $(VENV)/.installed-test
