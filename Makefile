# make demo    the whole job on Digits-LT, set up and run          (about 3 minutes on 2 cores)
# make test    set up, then every check and test; CI runs this too
# make lint    the checks without the tests
# make setup   only the set-up; done once, skipped afterwards
# make lock    pin the newest versions anew

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CORES ?= 2

.PHONY: help setup demo test lint lock clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

setup: $(READY)

$(READY): envs/requirements.txt envs/setup.sh pyproject.toml
	@envs/setup.sh $(VENV)
	@touch $@

demo: $(READY)
	@. $(BIN)/activate && snakemake --cores $(CORES) --quiet rules host && echo && mem results digits_lt

test: lint
	@. $(BIN)/activate && pytest -n $(CORES) --dist loadfile --no-loadscope-reorder

lint: $(READY)
	@. $(BIN)/activate && ruff check --quiet && ruff format --check --quiet && snakefmt --check --compact-diff Snakefile workflow \
	  && lint-imports --no-logo && snakemake --lint && pyright --warnings

lock:
	@. $(BIN)/activate && uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --upgrade \
	  --no-emit-index-url --no-annotate --no-header --quiet --output-file envs/requirements.txt

clean:
	rm -rf $(VENV) runs results logs .snakemake
