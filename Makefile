# Everything runs in .venv, which is made from the hash-locked requirements when they change.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help run test check format bench collector test-collector lock clean

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.run ## Start the monitor on port 5004 with the built-in demo targets
	@exec $(BIN)/otel-url-monitor demo

test: $(VENV)/.dev ## Run the tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(VENV)/.dev ## Lint and check the types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev ## Compare with blackbox_exporter (needs Debian's nginx and prometheus-blackbox-exporter)
	@mkdir -p build
	$(BIN)/python -m bench --json build/bench.json

collector: ## Build the collector that the tests use (needs Go 1.25; 5 minutes the first time)
	@otel-collector/build.sh

test-collector: $(VENV)/.dev ## Run the tests against a real collector, which is built first
	@otelcol=$$(otel-collector/build.sh) && export OTELCOL="$$otelcol" && set -x && \
	  $(BIN)/python -m pytest tests/test_collector_files.py tests/test_collector.py $(PYTEST_ARGS)

COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
  --no-emit-index-url pyproject.toml

lock: ## Resolve the requirements files anew (needs uv)
	$(COMPILE) -o requirements.txt
	$(COMPILE) -c requirements.txt --group dev -o requirements-dev.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --no-emit-index-url -c requirements-dev.txt --group build -o requirements-build.txt

clean: ## Remove what was built
	rm -rf $(VENV) build dist

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# The build backend is locked and installed too, so that nothing unlocked is fetched to install the package itself.
$(VENV)/.run: requirements.txt requirements-build.txt pyproject.toml | $(VENV)/bin/python
	@echo "installing into $(VENV) ..."
	@$(INSTALL) --require-hashes -r requirements.txt -r requirements-build.txt
	@$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements-dev.txt pyproject.toml | $(VENV)/bin/python
	@echo "installing into $(VENV) ..."
	@$(INSTALL) --require-hashes -r requirements-dev.txt
	@$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.run
