# Everything runs in .venv, which is made from the hash-locked requirements when they change.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help run test check format bench collector test-collector image image-test test-kubernetes generate lock clean

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

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

image: ## Build the image with docker, podman or buildah
	@image/build.sh $(IMAGE)

TESTED_IMAGE := localhost/otel-url-monitor:test
LOCAL_IMAGE := base=$$(image/base.sh) && BUILDER=buildah PYTHON_IMAGE=$$base image/build.sh $(TESTED_IMAGE)

image-test: $(VENV)/.dev ## Build the image on a local Debian base and test it (needs podman, buildah, runc, debootstrap, root)
	@$(LOCAL_IMAGE) && tools=$$(image/tools.sh) && set -x && \
	  PATH="$$PATH:$$tools" OUM_IMAGE=$(TESTED_IMAGE) $(BIN)/python -m pytest tests/test_dockerfile.py tests/test_image.py $(PYTEST_ARGS)

test-kubernetes: $(VENV)/.dev ## Test the chart on the cluster of KUBECONFIG with the image in IMAGE, or on LAB's with a local one
ifneq ($(LAB),)
	@$(LOCAL_IMAGE) && tests/kubernetes/in-lab "$(LAB)" $(TESTED_IMAGE) \
	  $(MAKE) test-kubernetes LAB= IMAGE=$(TESTED_IMAGE) PYTEST_ARGS="$(PYTEST_ARGS)"
else
	@test -n "$(IMAGE)" || { echo "give an image that the cluster can pull or has: make test-kubernetes IMAGE=..."; exit 2; }
	OUM_KUBERNETES_IMAGE=$(IMAGE) $(BIN)/python -m pytest tests/test_kubernetes.py $(PYTEST_ARGS)
endif

generate: $(VENV)/.dev ## Write anew what is generated: the chart's schema and examples, the rules for use without Helm
	$(BIN)/python helm/generate.py
	$(BIN)/python monitoring/render.py

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
