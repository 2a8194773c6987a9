# Most targets only call the `hpsearch` command. `make help` explains every target and variable.

PYTHON ?= $(shell command -v python3.11 || command -v python3)  ## Python interpreter, 3.11 or newer, that creates .venv
TASK ?=     ## data set: imdb, rotten_tomatoes, squad, squad_v2, qa_demo; for your own files: csv, multilabel, ner_files, qa_files, or a task in your --config-dir; default: imdb
MODEL ?=    ## pretrained model: minilm, bert-base, roberta-base, distilbert, electra-base, modernbert-base, deberta-v3-base, deberta-v3-small, gpt2; default: minilm
SEARCH ?=   ## search space: default, wide, qa (for question answering)
BUDGET ?=   ## time for the whole study: a time such as 15m or 2h, or quick (15m), standard (2h), full (60 trials on all data, no time limit); default: quick
STUDY ?=    ## name of the study; default: TASK-MODEL-SEARCH
ARGS ?=     ## any other settings and options, for example: TASK=csv ARGS='task.name=mine task.files.train="my file.csv"'

BIN := .venv/bin
HPSEARCH = $(BIN)/hpsearch
CHOSEN = $(foreach pair,task=TASK model=MODEL search=SEARCH budget=BUDGET study=STUDY,$(call given,$(subst =, ,$(pair))))
given = $(if $(strip $($(word 2,$(1)))),'$(word 1,$(1))=$(strip $($(word 2,$(1))))')

# pip skips packages that are already installed, so updating an old environment takes seconds.
PIP = $(BIN)/python -m pip --disable-pip-version-check install --quiet
RUNTIME := $(BIN)/.hpsearch-runtime
DEV := $(BIN)/.hpsearch-dev

.DEFAULT_GOAL := help
.PHONY: setup sweep finish status stop skip try extend train report promote rollback history reproduce fsck predict serve ui config test test-browser test-slow test-chaos test-gpu bench check docs help

setup: $(DEV)  ## create .venv with everything needed to run, test and check

sweep: $(RUNTIME)  ## search for the best model, or continue a study that was stopped
	$(HPSEARCH) sweep $(CHOSEN) $(ARGS)

finish: $(RUNTIME)  ## end a search with the trials it has: confirm the best, train the final model, score it on test data
	$(HPSEARCH) finish $(CHOSEN) $(ARGS)

status: $(RUNTIME)  ## print each study's phase, trials, best score so far and end time; ARGS=--watch repeats it every two seconds
	@$(HPSEARCH) status $(STUDY) $(ARGS)

stop: $(RUNTIME)  ## save and stop a running study, as Ctrl-C does
	@$(HPSEARCH) stop $(STUDY) $(ARGS)

skip: $(RUNTIME)  ## end one trial of a running study and continue without it: make skip ARGS=3
	@$(HPSEARCH) skip $(STUDY) $(ARGS)

try: $(RUNTIME)  ## choose the point that a running study tries next: make try ARGS=learning_rate=3e-5
	@$(HPSEARCH) try $(STUDY) $(ARGS)

extend: $(RUNTIME)  ## raise the total time of a study: make extend BUDGET=2h
	@$(HPSEARCH) extend $(STUDY) $(if $(BUDGET),--budget $(BUDGET)) $(ARGS)

train: $(RUNTIME)  ## fine-tune one model with fixed hyperparameters, and track it in MLflow
	$(HPSEARCH) train $(CHOSEN) $(ARGS)

report: $(RUNTIME)  ## write the study's report.html again
	$(HPSEARCH) report $(CHOSEN) $(ARGS)

promote: $(RUNTIME)  ## make the study's winner the champion if it passes the gate; ARGS=--dry-run only prints the decision
	$(HPSEARCH) promote $(CHOSEN) $(ARGS)

rollback: $(RUNTIME)  ## make the previous champion the champion again
	$(HPSEARCH) rollback $(CHOSEN) $(ARGS)

history: $(RUNTIME)  ## print which version was champion, when and why
	$(HPSEARCH) history $(CHOSEN) $(ARGS)

reproduce: $(RUNTIME)  ## train a tracked trial again and compare its metrics: make reproduce ARGS=<id of its MLflow run>
	$(HPSEARCH) reproduce $(CHOSEN) $(ARGS)

fsck: $(RUNTIME)  ## check that state folder, study database and MLflow agree; make fsck ARGS=--repair repairs what it can
	$(HPSEARCH) fsck $(CHOSEN) $(ARGS)

predict: $(RUNTIME)  ## label the texts or answer the questions of a file: make predict ARGS="--input new.csv --output labelled.csv"
	$(HPSEARCH) predict $(CHOSEN) $(ARGS)

serve: $(RUNTIME)  ## answer requests with the champion, on this machine only
	$(HPSEARCH) serve $(CHOSEN) $(ARGS)

ui: $(RUNTIME)  ## show runs and models in MLflow's web pages, on this machine only
	$(HPSEARCH) ui $(CHOSEN) $(ARGS)

config: $(RUNTIME)  ## print the composed settings and run nothing
	@$(HPSEARCH) config $(CHOSEN) $(ARGS)

test: $(DEV)  ## run all tests except those of the next four targets; takes a few minutes
	$(BIN)/python -m pytest --numprocesses=3 --dist=loadfile

test-browser: $(DEV)  ## test MLflow's web pages in headless Chromium
	$(BIN)/python -m pytest -m browser

test-slow: $(DEV)  ## run the tests with real data or many trials
	$(BIN)/python -m pytest -m slow --numprocesses=3 --dist=loadfile --no-loadscope-reorder

test-chaos: $(DEV)  ## kill, stop and starve sweeps at random moments; CHAOS_SEED=<printed seed> repeats the same moments
	$(BIN)/python -m pytest -m chaos --numprocesses=5 -rA --durations=15

test-gpu: $(DEV)  ## run the tests that need an NVIDIA GPU
	$(BIN)/python -m pytest -m gpu

bench: $(DEV)  ## compare the training speed with Hugging Face's Trainer and its defaults: make bench ARGS="--rounds 1", about 15 minutes
	$(BIN)/python experiments/engine/run.py $(ARGS)

check: $(DEV)  ## check lint, format, types, spelling, sentences, and that the docs agree with the code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@# Each experiment is checked separately, because most have a script named run.py.
	@for folder in $(sort $(dir $(wildcard experiments/*/*.py))); do \
	    $(BIN)/mypy $$folder*.py > .mypy_cache/said || { cat .mypy_cache/said; exit 1; }; done
	$(BIN)/python docs/generate.py --check
	$(BIN)/codespell README.md CHANGELOG.md CONTRIBUTING.md conf docs experiments src
	$(BIN)/python -m pytest --quiet tests/test_docs.py  # links, commands, and the length of sentences

docs: $(DEV)  ## build the documentation into site/; a dead link is an error
	$(BIN)/zensical build --clean --strict

help:  ## print this help
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
