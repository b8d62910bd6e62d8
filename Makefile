# `make run` tells the whole story on the tiny model; `make test` passes the tests. Both set everything up.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install run test test-slow lint

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet "torch===2.13.0" "torchvision==0.28.0"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

run: install
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m evaluation.tiny_story

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy fovea environments rewards synthesis sft rl evaluation benchmarks

test: lint
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest -n 2

test-slow: install
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest -m slow
