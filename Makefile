# Thin lines over the `hpsearch` command. `make help` explains every target and variable.

PYTHON ?= $(shell command -v python3.11 || command -v python3)  ## Python 3.11 or newer that makes .venv
TASK ?=     ## data: imdb, rotten_tomatoes, squad, squad_v2, qa_demo; your files: csv, multilabel, ner_files, qa_files; or yours in --config-dir; default imdb
MODEL ?=    ## minilm, bert-base, roberta-base, distilbert, electra-base, modernbert-base, deberta-v3-base, deberta-v3-small, gpt2; default minilm
SEARCH ?=   ## what is searched: default, wide, qa (for question answering)
BUDGET ?=   ## hours in all: 15m, 2h; quick (15m), standard (2h), full (all trials on all data); default quick
STUDY ?=    ## name of the study; default TASK-MODEL-SEARCH
ARGS ?=     ## any settings and options: TASK=csv ARGS='task.name=mine task.files.train="my file.csv"'

BIN := .venv/bin
HPSEARCH = $(BIN)/hpsearch
CHOSEN = $(foreach pair,task=TASK model=MODEL search=SEARCH budget=BUDGET study=STUDY,$(call given,$(subst =, ,$(pair))))
given = $(if $(strip $($(word 2,$(1)))),'$(word 1,$(1))=$(strip $($(word 2,$(1))))')

# Installs nothing that is there already, so a stale environment costs seconds.
PIP = $(BIN)/python -m pip --disable-pip-version-check install --quiet
RUNTIME := $(BIN)/.hpsearch-runtime
DEV := $(BIN)/.hpsearch-dev

.DEFAULT_GOAL := help
.PHONY: setup sweep finish status stop skip try extend train report promote rollback history reproduce fsck predict serve ui config test test-browser test-slow test-chaos test-gpu bench check docs help

setup: $(DEV)  ## make .venv with all that running, testing and checking need

sweep: $(RUNTIME)  ## search for the best model, or go on where the search stopped
	$(HPSEARCH) sweep $(CHOSEN) $(ARGS)

finish: $(RUNTIME)  ## end a study with the trials that it has: confirm the best, train the final model, score test
	$(HPSEARCH) finish $(CHOSEN) $(ARGS)

status: $(RUNTIME)  ## where studies stand: phase, trials, best so far, the end; ARGS=--watch
	@$(HPSEARCH) status $(STUDY) $(ARGS)

stop: $(RUNTIME)  ## have a running study save and end, as Ctrl-C does
	@$(HPSEARCH) stop $(STUDY) $(ARGS)

skip: $(RUNTIME)  ## end a trial of a running study, and go on without it: make skip ARGS=3
	@$(HPSEARCH) skip $(STUDY) $(ARGS)

try: $(RUNTIME)  ## have a running study try a point next: make try ARGS=learning_rate=3e-5
	@$(HPSEARCH) try $(STUDY) $(ARGS)

extend: $(RUNTIME)  ## give a study more hours, in all: make extend BUDGET=2h
	@$(HPSEARCH) extend $(STUDY) $(if $(BUDGET),--budget $(BUDGET)) $(ARGS)

train: $(RUNTIME)  ## one tracked fine-tune with fixed hyperparameters
	$(HPSEARCH) train $(CHOSEN) $(ARGS)

report: $(RUNTIME)  ## write the study's report.html again
	$(HPSEARCH) report $(CHOSEN) $(ARGS)

promote: $(RUNTIME)  ## make the study's winner champion, if it passes the gate; ARGS=--dry-run only asks
	$(HPSEARCH) promote $(CHOSEN) $(ARGS)

rollback: $(RUNTIME)  ## make the previous champion champion again
	$(HPSEARCH) rollback $(CHOSEN) $(ARGS)

history: $(RUNTIME)  ## which version was champion when, and why
	$(HPSEARCH) history $(CHOSEN) $(ARGS)

reproduce: $(RUNTIME)  ## train a tracked trial again and compare: make reproduce ARGS=<id of its MLflow run>
	$(HPSEARCH) reproduce $(CHOSEN) $(ARGS)

fsck: $(RUNTIME)  ## do state folder, study database and MLflow agree? make fsck ARGS=--repair repairs
	$(HPSEARCH) fsck $(CHOSEN) $(ARGS)

predict: $(RUNTIME)  ## label or answer a file: make predict ARGS="--input new.csv --output labelled.csv"
	$(HPSEARCH) predict $(CHOSEN) $(ARGS)

serve: $(RUNTIME)  ## answer requests with the champion, on this machine only
	$(HPSEARCH) serve $(CHOSEN) $(ARGS)

ui: $(RUNTIME)  ## show runs and models in MLflow's pages, on this machine only
	$(HPSEARCH) ui $(CHOSEN) $(ARGS)

config: $(RUNTIME)  ## print the settings as composed and run nothing
	@$(HPSEARCH) config $(CHOSEN) $(ARGS)

test: $(DEV)  ## all tests but those of the next targets, a few minutes
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile

test-browser: $(DEV)  ## MLflow's pages in headless Chromium
	$(BIN)/python -m pytest -m browser

test-slow: $(DEV)  ## real data and many trials
	$(BIN)/python -m pytest -m slow --numprocesses=2 --dist=loadfile --no-loadscope-reorder

test-chaos: $(DEV)  ## kill, stop and starve sweeps at random moments; CHAOS_SEED=<printed seed> repeats them
	$(BIN)/python -m pytest -m chaos --numprocesses=4 -rA --durations=15

test-gpu: $(DEV)  ## what only an NVIDIA GPU can show
	$(BIN)/python -m pytest -m gpu

bench: $(DEV)  ## training beside Hugging Face's Trainer as it comes: make bench ARGS="--rounds 1", about 15 minutes
	$(BIN)/python experiments/engine/run.py $(ARGS)

check: $(DEV)  ## lint, format, types, spelling, and docs that agree with the code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@# Each experiment by itself: all call their script run.py.
	@for folder in $(sort $(dir $(wildcard experiments/*/*.py))); do \
	    $(BIN)/mypy $$folder*.py > .mypy_cache/said || { cat .mypy_cache/said; exit 1; }; done
	$(BIN)/python docs/generate.py --check
	$(BIN)/codespell README.md CHANGELOG.md CONTRIBUTING.md conf docs experiments src

docs: $(DEV)  ## build the documentation into site/; a dead link is an error
	$(BIN)/zensical build --clean --strict

help:  ## print this
	@echo 'make TARGET [VARIABLE=value ...]'
	@echo
	@echo 'Targets:'
	@sed -nE 's/^([a-z-]+):.*  ## (.*)$$/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "  %-14s%s\n", $$1, $$2}'
	@echo
	@echo 'Variables:'
	@sed -nE 's/^([A-Z]+) \?= .*  ## (.*)$$/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "  %-14s%s\n", $$1, $$2}'
	@echo
	@echo 'Everything that runs write goes to runs/, or to $$HPSEARCH_HOME where that is set.'

$(RUNTIME): requirements.txt pyproject.toml
	@test -n '$(strip $(PYTHON))' || { echo 'make: no Python found; install Python 3.11 or give PYTHON=/path/to/python' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "make: Python 3.11 or newer is needed; give PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@echo 'installing the pinned requirements into .venv; the first time takes some minutes'
	@$(PIP) -r requirements.txt
	@$(PIP) --no-deps --editable .
	@touch $@

$(DEV): $(RUNTIME) requirements-dev.txt
	@echo 'installing what tests and checks need into .venv'
	@$(PIP) -r requirements-dev.txt
	@touch $@
