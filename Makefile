# make demo: install into .venv and show plain rounding failing and reconstruction recovering, offline.
# make test: lint, then types beside tests, two at a time with one thread each.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: demo test types tests docs clean

demo: $(VENV)/.installed
	$(BIN)/vitq demo

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) --no-print-directory --jobs 2 types tests

types: $(VENV)/.installed-dev
	$(BIN)/mypy

# worksteal: each worker runs files that follow each other, which share what they capture.
tests: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -n 2 --dist worksteal $(PYTEST_ARGS)

# The site in build/site, from pages that lie as in the repository, and those that scripts/website.py makes of recipes
# and docstrings; a link that leads nowhere ends it.
docs: $(VENV)/.installed-docs
	rm -rf build/pages && mkdir -p build/pages
	cp -r *.md LICENSE CITATION.cff pyproject.toml docs benchmarks examples scripts suites build/pages/
	$(BIN)/mkdocs build

# Python 3.11 brings a pip that takes twice as long; where there is no newer one, it does.
$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vitq needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	-$(BIN)/python -m pip install --quiet --upgrade pip

# --no-compile: of 18,000 files the tests import a tenth; Python compiles these when it does, and keeps them.
export PYTHONDONTWRITEBYTECODE :=

# The stamps make a second call quick; a changed pyproject.toml installs again.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --no-compile -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --no-compile -e '.[dev]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --no-compile -e '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
