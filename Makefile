# Tasks of mobula-proxy; `make help` lists them. They need Python 3.11 or newer and nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Options for the proxy that `make run` starts, as in: make run ARGS="--set log.access=true"
ARGS ?=
# One for each of two cores, and one that is with the soak, which sleeps most of the time.
WORKERS := 3
# Seconds that `make soak` takes.
SOAK_SECONDS ?= 1800
# Seconds that `make fuzz` takes for each target.
FUZZ_SECONDS ?= 225
FUZZ_TARGETS := request_path response_path websocket_path settings_loader
# The Python of the image's Debian.
IMAGE_PYTHON := 3.13

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the tasks
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Tokens and what is left of them, and of the mint budget, outlive a restart: they are kept in .state.
.PHONY: run
run: $(VENV)/.run ## Serve on 127.0.0.1:8080; without MOBULA_API_KEY, a demo on the sandbox
	@MOBULA_PROXY__STATE_DIR=$${MOBULA_PROXY__STATE_DIR-.state} exec $(BIN)/mobula-proxy serve --demo $(ARGS)

.PHONY: test
test: lint types imports ## Run the linters, the type checker and all tests
	$(BIN)/pytest --numprocesses $(WORKERS) --dist worksteal

.PHONY: lint
lint: $(VENV)/.dev ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint --failure-threshold style Dockerfile

.PHONY: types
types: $(VENV)/.dev ## Check types, strictly
	$(BIN)/mypy

.PHONY: imports
imports: $(VENV)/.dev ## Check that imports point one way
	$(BIN)/lint-imports --no-cache

.PHONY: format
format: $(VENV)/.dev ## Rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: schema
schema: $(VENV)/.dev ## Regenerate docs/config.schema.json, and its copy in the chart
	$(BIN)/python -m proxy.config > docs/config.schema.json
	PYTHONPATH=tests $(BIN)/python tests/helm/schema.py

# Fails where a package has no wheel for an architecture, or the two need different ones.
LOCKED = echo setuptools | .venv-lock/bin/uv pip compile --quiet --constraints constraints.txt --extra redis \
	--generate-hashes --only-binary :all: --python-version $(IMAGE_PYTHON) --annotation-style line \
	--custom-compile-command 'make lock' pyproject.toml -

.PHONY: lock
lock: .venv-lock/.lock ## Regenerate requirements.txt, what the image installs, from constraints.txt
	$(LOCKED) --python-platform x86_64-manylinux_2_28 --output-file requirements.txt
	$(LOCKED) --python-platform aarch64-manylinux_2_28 | diff requirements.txt -

.PHONY: tables
tables: $(VENV)/.dev ## Rewrite what tests find out: tables in docs/, patched pods, the kustomize base
	WRITE_TABLES=1 $(BIN)/pytest --numprocesses 0 tests/faults tests/helm

.PHONY: soak
soak: $(VENV)/.dev ## Half an hour of mixed load with random faults; nothing may stay behind
	SOAK_SECONDS=$(SOAK_SECONDS) $(BIN)/pytest --numprocesses 0 --capture no tests/soak

.PHONY: bench
bench: .venv-bench/.run ## Measure CPU per request, memory and time to ready, as installed for use
	.venv-bench/bin/python bench/footprint.py
	.venv-bench/bin/python bench/throughput.py
	.venv-bench/bin/python bench/clients.py

.PHONY: fleet
fleet: $(VENV)/.dev ## Simulate fleets of up to 1,000 processes; the table of docs/scaling.md
	@PYTHONPATH=tests $(BIN)/python bench/fleet.py

# atheris needs Python 3.11 to 3.13; beside a newer one: make fuzz VENV=.venv-fuzz PYTHON=python3.13
.PHONY: fuzz
fuzz: $(FUZZ_TARGETS:%=fuzz-%) ## Fuzz for 15 minutes: FUZZ_SECONDS (225) for each of four targets

fuzz-%: $(VENV)/.fuzz
	$(BIN)/python tests/fuzz/run.py $* -max_total_time=$(FUZZ_SECONDS)

.PHONY: corpus
corpus: $(FUZZ_TARGETS:%=corpus-%) ## Take what make fuzz has found into tests/fuzz/corpus, minimised

corpus-%: $(VENV)/.fuzz
	rm -rf .fuzz/merged && mkdir -p .fuzz/merged
	$(BIN)/python tests/fuzz/run.py $* -merge=1 .fuzz/merged .fuzz/$* tests/fuzz/corpus/$*
	rm -rf tests/fuzz/corpus/$* && mv .fuzz/merged tests/fuzz/corpus/$*

.PHONY: clean
clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) .venv-bench .venv-fuzz .venv-lock .fuzz .image build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

%/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "mobula-proxy needs Python 3.11 or newer; name one with: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $*

%/.run: pyproject.toml constraints.txt | %/bin/python
	$*/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

%/.dev: pyproject.toml constraints.txt | %/bin/python
	$*/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@ $*/.run

%/.fuzz: %/.dev
	$*/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,fuzz]'
	@touch $@

%/.lock: constraints.txt | %/bin/python
	$*/bin/pip install --quiet --disable-pip-version-check -c constraints.txt uv
	@touch $@

.PRECIOUS: %/bin/python %/.fuzz
