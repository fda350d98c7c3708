# make demo            the main job on built-in clips; DATA=folder runs it on yours
# make test            lint, types, import rules, tests
# make test-slow       the tests that kill or time whole jobs
PYTHON ?= python3
BIN := .venv/bin
SETUP := .venv/.set-up

.PHONY: demo test test-slow lint format typecheck tests
.DEFAULT_GOAL := test

demo: $(SETUP)
	$(BIN)/genconvit demo $(if $(DATA),--data "$(DATA)")

test: lint typecheck tests

lint: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: $(SETUP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: $(SETUP)
	$(BIN)/mypy

tests: $(SETUP)
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(SETUP)
	$(BIN)/pytest -m slow

$(SETUP): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@
