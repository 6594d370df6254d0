# Two commands: `make figures` and `make test`. Both set up the virtual environment first if it is not there.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))
EXECUTE := $(BIN)/jupyter nbconvert --to notebook --execute --log-level WARN --ExecutePreprocessor.record_timing=False

FAULTS := tests/test_faults.py tests/test_processes.py tests/test_any_input.py tests/test_any_command.py

.DEFAULT_GOAL := help
.PHONY: help setup figures test test-faults lint lab train predictions notebooks bench

help:  ## this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP)  ## make .venv and install requirements.txt into it

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo 'Installing requirements.txt into .venv. That takes some minutes, and says nothing meanwhile.'
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

figures: $(STAMP)  ## run every notebook top to bottom, which regenerates figures/
	$(EXECUTE) --output-dir .build $(NOTEBOOKS)

test: lint  ## ruff, then pytest, then nbval over all notebooks
	$(BIN)/python -m pytest tests -m 'not slow'
	$(BIN)/python -m pytest --nbval --nbval-current-env --nbval-sanitize-with tests/nbval.cfg \
		--nbval-cell-timeout=300 -p no:cacheprovider notebooks

lint: $(STAMP)  ## ruff: style and format
	$(BIN)/ruff check lib tests notebooks
	$(BIN)/ruff format --check lib tests notebooks

test-faults: $(STAMP)  ## the long tests: trainings killed at random, full disks, thousands of bad inputs, several processes
	$(BIN)/python -m pytest -m '' $(FAULTS)

lab: $(STAMP)  ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks

train: $(STAMP)  ## train the models of data/runs that are not there, two at a time, one thread each; may be stopped and started
	$(BIN)/python -m mathtransformer queue

predictions: $(STAMP)  ## solve the test sets with every model whose answers are missing or out of date
	$(BIN)/python -m mathtransformer predict

notebooks: $(STAMP)  ## run every notebook, save it with its outputs, and copy the table of 04 into the README
	$(EXECUTE) --inplace $(NOTEBOOKS)
	$(BIN)/python tests/test_repository.py

bench: $(STAMP)  ## measure this machine: data generation, training and prediction; about a minute
	$(BIN)/python -m mathtransformer bench
