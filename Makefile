# A virtual environment in .venv is made on first use; nothing else on the machine is touched.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
ON_ALL_CORES := --numprocesses auto --maxprocesses 8 --dist worksteal
EXPERIMENT ?= experiments/fashion_mnist/resnet20_cbam.yaml

.DEFAULT_GOAL := help
.PHONY: help install train study test test-all lint format benchmark clean

help:  ## Show this help
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

$(BIN)/.package: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(BIN)/.dev: $(BIN)/.package
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

install: $(BIN)/.dev  ## Install the package and its development tools into .venv

train: $(BIN)/.package  ## Train EXPERIMENT (default: CBAM ResNet-20 on the embedded images)
	$(BIN)/cbam-lightning fit --config $(EXPERIMENT)

study: $(BIN)/.package  ## Train none and CBAM with two seeds each on the embedded images, and compare them
	$(BIN)/cbam-lightning study experiments/fashion_mnist/study.yaml --jobs 2
	$(BIN)/cbam-lightning compare experiments/fashion_mnist/study.yaml

test: $(BIN)/.dev  ## Run the tests, without the slow ones
	$(BIN)/pytest $(ON_ALL_CORES)

test-all: $(BIN)/.dev  ## Run all tests
	$(BIN)/pytest $(ON_ALL_CORES) -m ''

lint: $(BIN)/.dev  ## Check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(BIN)/.dev  ## Format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

benchmark: $(BIN)/.dev  ## Measure attention, a network, Grad-CAM, reading images and the training loop
	$(BIN)/cbam-lightning benchmark attention
	$(BIN)/cbam-lightning benchmark network
	$(BIN)/cbam-lightning benchmark gradcam
	$(BIN)/cbam-lightning benchmark data
	$(BIN)/cbam-lightning benchmark loop

clean:  ## Remove the environment, caches and builds; runs stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
