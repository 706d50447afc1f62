# `make demo` and `make test` do all their own set-up: they need Python 3.10+ and a network, nothing else.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check

demo: .venv/demo
	$(BIN)/python -m swe_eval

test: .venv/test
	$(BIN)/python -m pytest

check: .venv/test
	$(BIN)/ruff check .
	$(BIN)/mypy

.venv/%: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet torch==2.13.0  # alone, before a range can admit a newer one
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[$*]'
	touch $@
