# The verbs of this repository; the work is in scripts and crates. `make` alone prints them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
export MILLRACE_CACHE ?= $(HOME)/.cache/millrace
# Outside the checkout, so that a fresh clone does not build from nothing.
export CARGO_TARGET_DIR ?= $(MILLRACE_CACHE)/target

.PHONY: help demo test soak e2e bench check-cuda lint images crds tasks down
.DEFAULT_GOAL := help

help: ## these lines
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' Makefile

demo: ## from nothing to pictures; MODEL=stabilityai/sdxl-turbo takes a real model, PROMPTS=50 sends more
	@e2e/kind/demo

test: ## everything: lint, unit, integration with LocalStack, charts, docs, end to end
	@e2e/kind/test

soak: ## what takes long: 100,000 messages with faults, 1,000 SIGTERMs, 200 scale-downs under load
	@e2e/kind/test build cluster soak

e2e: ## only the end-to-end tests, with the cluster that they need
	@e2e/kind/test build cluster e2e

bench: ## one measurement beside its peers: make bench NAME=worker, operator, operator-scale, scaling, keda, images or embeddings
	@bench/run $(NAME) $(OPTIONS)

check-cuda: ## type-checks the CUDA build with nvcc from PyPI: 15 minutes the first time, 1.6 GB
	@deploy/check-cuda

lint: ## format, clippy, shellcheck
	@e2e/kind/test lint

images: ## the images of the dev build, into the cluster
	@e2e/kind/up && cargo build --locked --workspace --bins && e2e/kind/load

crds: ## writes crds/queueconsumers.yaml anew from api/
	@cargo build --quiet --locked --workspace --bins
	@mkdir -p crds && "$$CARGO_TARGET_DIR/debug/millrace-operator" crd > crds/.new && mv crds/.new crds/queueconsumers.yaml

tasks: ## writes docs/tasks.md and docs/schemas anew from api/
	@cargo build --quiet --locked --workspace --bins
	@mkdir -p docs/schemas && worker=$$CARGO_TARGET_DIR/debug/millrace-worker; \
	"$$worker" tasks > docs/tasks.md; \
	for task in $$(sed -n 's/^## //p' docs/tasks.md); do \
	  "$$worker" schema --task "$$task" > "docs/schemas/$$task.input.json"; \
	  "$$worker" schema --task "$$task" --parameters > "docs/schemas/$$task.parameters.json"; \
	done

down: ## removes the cluster; builds stay in the cache
	@e2e/kind/down
