# make demo    set up, then run the complete workflow on Digits-LT (about 3 minutes on 2 cores)
# make test    set up, then run all checks and tests, as CI does
# make check   set up, then run the linters and the unit tests (under 3 minutes on 2 cores)
# make lint    run the linters
# make docs    build the documentation site in build/site
# make tables  regenerate the result tables in docs/ from their CSV files, and the figures of the start page
# make setup   install packages and the virtual environment; other targets do this when the requirements change
#              (options of envs/setup.sh: make setup SETUP="--users --without-ffcv")
# make slurm-up, make slurm-down   start and stop a two-node SLURM cluster on this machine (requires root on Debian or Ubuntu)
# make slurm-demo   run the workflow of `make demo` on this SLURM cluster, in build/slurm-demo, with pretraining on both nodes
# make lock    pin the newest versions of all requirements, with hashes
# make container-digest   pin the base image of the container to its current digest (requires internet access and skopeo)
# make clean   remove the virtual environment and built files; `mem runs gc` removes runs that no study needs

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PLUGIN := cluster/snakemake-executor-plugin-submitit
CORES ?= 2
TEST_WORKERS ?= $(shell expr $(CORES) + 1)  # one worker runs the SLURM tests, which wait most of the time

.PHONY: help setup demo check test lint docs tables slurm-up slurm-down slurm-demo lock container-digest clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

setup:
	@rm -f $(READY)
	@$(MAKE) --no-print-directory $(READY)

$(READY): envs/requirements-dev.txt envs/requirements-ffcv.txt envs/setup.sh pyproject.toml $(PLUGIN)/pyproject.toml $(wildcard mem/data/beton/native/*)
	@bash envs/setup.sh $(SETUP) $(VENV)
	@touch $@

demo: $(READY)
	@. $(BIN)/activate && snakemake --cores $(CORES) --quiet rules host

# The workers share the cores, so threads that wait give them up at once (docs/performance/cpu.md).
PYTEST := OMP_WAIT_POLICY=passive pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

test: lint
	@. $(BIN)/activate && $(PYTEST)

check: lint
	@. $(BIN)/activate && $(PYTEST) -m "not stage and not workflow and not slurm and not gpu"

lint: $(READY)
	@. $(BIN)/activate && ruff check --quiet && ruff format --check --quiet && snakefmt --check --compact-diff Snakefile workflow \
	  && lint-imports --no-logo && snakemake --lint && pyright --warnings

docs: $(READY)
	@. $(BIN)/activate && NO_MKDOCS_2_WARNING=1 mkdocs build --quiet && echo "build/site/index.html"

tables: $(READY)
	@$(BIN)/python docs/_site/tables.py
	@$(BIN)/python docs/_site/paper_claims.py
	@$(BIN)/python docs/_site/landing.py
	@$(BIN)/python docs/_site/diagram.py

slurm-up: $(READY)
	@$(BIN)/python -m cluster.throwaway up

slurm-down: $(READY)
	@$(BIN)/python -m cluster.throwaway down

slurm-demo: $(READY)
	@mkdir -p build/slurm-demo
	@. $(BIN)/activate && python -m cluster.throwaway run sh -c "snakemake --profile slurm --directory build/slurm-demo \
	  --config 'compute={\"pretrain\": {\"nodes\": 2}}' --quiet rules host \
	  && sacct --allocations --format=JobID%12,JobName%24,NNodes,NodeList,State,Elapsed"

lock:
	@. $(BIN)/activate && python envs/lock.py --upgrade

container-digest:
	@bash envs/pin_container.sh

clean:
	rm -rf $(VENV) build
