# Two commands are enough: `make demo` and `make test`. Both set up .venv first, once.
# VENV=/path/to/environment uses an environment of yours and installs nothing into it.
PYTHON ?= python3
ifdef VENV
SETUP =
else
VENV = .venv
SETUP = $(VENV)/.installed
endif
BIN = $(VENV)/bin

.PHONY: demo test lint bench clean
demo: $(SETUP)
	$(BIN)/python -m pipeline demo

test: $(SETUP)
	$(BIN)/python -m pytest $(ARGS)

lint: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(SETUP)
	$(BIN)/python -m tests.benchmarks.stages

$(VENV)/.installed: requirements.txt requirements-dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

clean:
	rm -rf $(VENV) outputs data/demo
	find cache submissions -mindepth 1 ! -name README.md -delete
