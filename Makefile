# Every target sets up .venv first; a fresh clone needs python3 (3.11+), pip and make.
#   GPU=1         CUDA builds of torch, fbgemm and faiss
#   WITH=         extras to install: dev (default), mlflow, or both as dev,mlflow
#   TORCH_INDEX=  package index for torch alone, e.g. https://download.pytorch.org/whl/cpu
#   TESTERS=      processes that run tests beside each other, 2 by default, 0 in one
#   ARGS=         settings of the job (key=value ...), or arguments of pytest
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup servers run sweep serve test verify check bench doctor

PYTHON ?= python3
ROOT ?= runs/default
WITH ?= dev
TESTERS ?= 2
# A world and a number of steps of which 33 trainings fit into ten minutes on two cores.
SWEEP ?= runs/sweep
SWEEP_WORLD := world.num_users=3000 world.num_items=4000 two_tower.graph_vectors=false
SWEEP_STEPS := train.max_steps=100 train.validate_every=50
BUILD := $(if $(filter 1,$(GPU)),gpu,cpu)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check

# The stamp is named by build and pins: new pins update .venv, another build rebuilds it.
PINS := $(shell sed -n '/^requires-python/,/^\[tool/p' pyproject.toml | cksum | cut -d" " -f1)
STAMP := .venv/installed-$(BUILD)-$(PINS)
pin = $(shell sed -n 's/.*"\($(1)==[^"]*\)".*/\1/p' pyproject.toml)

export RAY_USAGE_STATS_ENABLED ?= 0

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1 \t/p' Makefile

$(STAMP):
	@if [ ! -x $(BIN)/python ] || ! compgen -G '.venv/installed-$(BUILD)*' >/dev/null; then \
	    $(PYTHON) -m venv --clear .venv || { $(PYTHON) -m venv --clear --without-pip .venv \
	    && $(PYTHON) -m pip --python $(BIN)/python install pip; }; touch .venv/installed-$(BUILD); fi
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(call pin,torch)
	$(PIP) --editable '.[$(BUILD),$(WITH)]'
	$(PIP) --no-deps $(call pin,torchrec)
	@rm -f .venv/installed-*-* && touch $@

setup: $(STAMP) ## install the pinned set into .venv

servers: ## Redis and a browser, for the tests that need them (Debian or Ubuntu, as root)
	apt-get update -q && apt-get install -qy --no-install-recommends redis-server chromium
	@systemctl disable --now redis-server 2>/dev/null || true

run: setup ## the whole loop into runs/default: prepare, train, evaluate, export, serve one request
	$(BIN)/python -m ray_jobs.pipeline root=$(ROOT) $(ARGS)

sweep: setup ## dropout by history length in a small world: a grid, a study, the best again (ARGS=model=user)
	@[ -f $(SWEEP)/world/CURRENT ] || $(BIN)/python -m ray_jobs.simulate root=$(SWEEP) $(SWEEP_WORLD)
	@[ -f $(SWEEP)/dataset/CURRENT ] || $(BIN)/python -m ray_jobs.prepare root=$(SWEEP) $(SWEEP_WORLD)
	$(BIN)/python -m ray_jobs.tune root=$(SWEEP) search=[grid,tpe] trials=12 confirm=3 \
	    'points=[{id_dropout: 0, sequence.max_length: 8}]' $(SWEEP_STEPS) $(ARGS)

serve: setup ## serve what bundles/CURRENT of ROOT names, on loopback; Ctrl-C ends it
	@exec $(BIN)/python -m ray_jobs.deploy root=$(ROOT) $(ARGS)

test: setup ## all tests
	$(BIN)/python -m pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder $(ARGS)

verify: setup ## what the README claims, into tests/benchmarks/results (hours, resumable)
	$(BIN)/python -m tests.benchmarks.verify $(ARGS)

check: setup ## lints, format, types, layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py

bench: setup ## one JSON line for each benchmark; some read runs/default (make run)
	@for file in tests/benchmarks/bench_*.py; do \
	    $(BIN)/python -m "tests.benchmarks.$$(basename "$$file" .py)" $(ARGS); done

doctor: setup ## versions, memory, disk, ports: what is wrong and what mends it
	$(BIN)/python -m ray_jobs.doctor root=$(ROOT) $(ARGS)
