# SPDX-License-Identifier: MIT
# make demo    a hundred guests at once, on a fresh machine: installs, builds, runs
# make test    installs, builds, checks and tests everything
# make build   the editable install in .venv; Python files are used in place, C is rebuilt on import
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test build check clean

demo: build
	$(BIN)/python examples/hundred_guests.py

test: build check
	tools/system-packages $(PYTHON) test
	$(BIN)/python -m pytest

check: .venv/tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

build: .venv/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" ninja -C build --quiet

.venv/bin/python:
	tools/system-packages $(PYTHON)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --upgrade pip

.venv/installed: .venv/bin/python pyproject.toml meson.build aioring/meson.build vm/meson.build
	$(BIN)/pip install -q 'meson-python>=0.17' 'meson>=1.4' ninja 'cffi>=1.17'
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pip install -q --no-build-isolation -Cbuild-dir=build -e .
	touch $@

.venv/tools: .venv/installed
	$(BIN)/pip install -q --group dev
	touch $@

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
