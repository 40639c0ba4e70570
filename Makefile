# On a machine with Python 3.11 or newer, git and make, nothing has to be set up first:
#
#   make demo    serve the example application on http://127.0.0.1:8000/ (PORT=... for another)
#   make test    everything that a change must pass: the same command as in CI
#
# PYTHON=/path/to/python3 chooses the interpreter of the environment in .venv.
# ARGS=... is passed on to pytest (make test) or to the benchmark (make bench).

PYTHON ?=
PORT ?= 8000
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test test-worker lint format bench docs docs-serve clean distclean

help:
	@echo "make demo    serve the example application on http://127.0.0.1:$(PORT)/"
	@echo "make test    format, lint, types, layers and all tests"
	@echo "make lint    the same without the tests"
	@echo "make format  rewrite the code in the project's format"
	@echo "make bench   measure Pounce beside other servers (needs wrk)"
	@echo "make docs    build the documentation into site/"
	@echo "make clean   remove what was built; make distclean removes .venv as well"

demo: $(VENV)/.run
	@echo "The demo application: open http://127.0.0.1:$(PORT)/ (Ctrl+C stops it)"
	@echo "What its workers count, for Prometheus: http://127.0.0.1:$(PORT)/metrics"
	@exec $(BIN)/pounce examples.demo:app --workers auto --metrics --port $(PORT)

lint: $(VENV)/.dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest -n auto --dist worksteal $(ARGS)

# What a worker does, which is other code from Python 3.12 on, and is run there by CI.
test-worker: $(VENV)/.dev
	$(BIN)/pytest -n auto --dist worksteal tests/worker tests/net tests/asgi $(ARGS)

format: $(VENV)/.dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: $(VENV)/.run
	$(BIN)/python -m bench $(ARGS)

# Material prints a page about MkDocs 2 at every build; the version is bounded instead.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

clean:
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) .autobahn bench/.env

# Stamps: an installation is repeated only when what it depends on has changed.
$(VENV)/.created: scripts/create-venv
	scripts/create-venv $(VENV) $(PYTHON)
	@touch $@

$(VENV)/.run: $(VENV)/.created pyproject.toml
	$(PIP) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.created pyproject.toml
	$(PIP) --editable '.[all]' --group dev
	@touch $@ $(VENV)/.run

$(VENV)/.docs: $(VENV)/.created pyproject.toml
	$(PIP) --editable . --group docs
	@touch $@ $(VENV)/.run
