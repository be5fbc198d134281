# Every target does its own set-up. `make` alone lists them.
SHELL := /bin/bash
PYTHON := .venv/bin/python
# The package is below plugins/, the lab and the tests are in the project's root.
export PYTHONPATH := $(CURDIR)/plugins:$(CURDIR)
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all up down status run break-glass bench chaos lint lock base-images compose-test workers-test
DAG ?=
CONF ?= {}
REASON ?=
# (make's own default of AS is the assembler)
AS = operator
TESTS ?= tests
# What stops the lab is said before anything is installed, for the targets that start it.
demo up bench chaos workers-test: PURPOSE = lab
test: PURPOSE = $(if $(filter tests,$(TESTS)),lab)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install everything that the project needs (Debian, Python and npm packages); quick when nothing is to do
	@scripts/setup.sh $(PURPOSE)

demo: setup ## the main job: lab, Airflow, and a blue-green deployment under load, with its proof
	@$(PYTHON) -m lab.demo

test: setup lint ## lint, types, import rules, and all tests: unit, DAG contract, integration in the lab, browser
	@echo "test: all tests of $(TESTS)"
	@scripts/test.sh $(TESTS)

test-all: export SEBENZA_TEST_ALL = yes
test-all: test ## make test, and the rarer ways through each procedure; before a release

up: setup ## start the lab and Airflow
	@$(PYTHON) -m lab up
	@$(PYTHON) -m lab.airflow up

.PHONY: installed
installed:
	@test -x $(PYTHON) || { echo "there is no .venv/bin/python that works: run make setup (or make up) first" >&2; exit 2; }

down: installed ## stop Airflow and the lab; nothing is left running
	@$(PYTHON) -m lab.airflow down; airflow=$$?; $(PYTHON) -m lab down && exit $$airflow

status: installed ## what runs, and how to log in
	@$(PYTHON) -m lab status; lab=$$?; $(PYTHON) -m lab.airflow status && exit $$lab

# CONF reaches the program through the environment, so that no quote in it is read by a shell.
run: export SEBENZA_RUN_CONF = $(CONF)
run: installed ## run a procedure and follow it: make run DAG=deploy_blue_green.production CONF='{"version":"v1.1.0"}' [AS=operator]
	@test -n "$(DAG)" || { echo "run: name the procedure, for example make run DAG=check_environment.production" >&2; exit 2; }
	@$(PYTHON) -m lab.airflow run "$(DAG)" --conf "$$SEBENZA_RUN_CONF" --as "$(AS)"

# No set-up before it: registries may be what is down. The lab's files are used only where nothing names others.
break-glass: export SEBENZA_RUN_CONF = $(CONF)
break-glass: export SEBENZA_RUN_REASON = $(REASON)
break-glass: ## an emergency procedure without any Airflow service: make break-glass DAG=rollback.production CONF='{}' REASON='why'
	@test -x $(PYTHON) || { echo "break-glass: run make setup first (and once a quarter a rehearsal)" >&2; exit 2; }
	@$(PYTHON) -m lab.break_glass "$(DAG)"

bench: setup ## every measurement beside its baseline; writes build/bench.json
	@$(PYTHON) -m benchmarks

chaos: setup ## the fault matrix, all of it; writes build/chaos.json
	@$(PYTHON) -m lab.chaos

base-images: ## a stand-in for the base image of the Dockerfile, where no image registry is reachable
	@scripts/engine.sh scripts/base-images.sh

workers-test: setup ## the installation's topology without containers: Celery workers, one of them killed in a deployment
	@$(PYTHON) -m pytest -m celery tests/installation

# The stand-in is used where the image that DEBIAN_IMAGE names can't be had.
compose-test: setup ## build and boot docker-compose.yaml on a container engine, deploy on it, kill a worker
	@scripts/engine.sh scripts/compose-test.sh

lint: setup ## style, types and import rules
	@echo "lint: style"; $(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check .
	@echo "lint: types (takes a minute the first time)"; $(PYTHON) -m mypy
	@echo "lint: import rules"; .venv/bin/lint-imports

lock: ## compile requirements*.txt again from requirements*.in
	@.venv/bin/uv pip compile --quiet --python-version 3.11 --no-emit-index-url requirements.in -o requirements.txt
	@.venv/bin/uv pip compile --quiet --python-version 3.11 --no-emit-index-url requirements-dev.in -o requirements-dev.txt
	@echo "lock: requirements.txt and requirements-dev.txt are compiled; make setup installs them"
