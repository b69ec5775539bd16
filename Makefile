# make demo    the whole job on Digits-LT, set up and run          (about 3 minutes on 2 cores)
# make test    set up, then every check and test; CI runs this too
# make lint    the checks without the tests
# make docs    the documentation as a site, in build/site
# make tables  the result tables of docs/results, regenerated from their CSV files
# make setup   only the set-up; done once, skipped afterwards
# make slurm-up, make slurm-down   a real SLURM of two nodes on this machine, for tests and to try things (root, Debian)
# make slurm-demo   the job of `make demo` on such a SLURM, pretrained on both nodes, in build/slurm-demo
# make lock    pin the newest versions anew

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PLUGIN := cluster/snakemake-executor-plugin-submitit
CORES ?= 2

.PHONY: help setup demo test lint docs tables slurm-up slurm-down slurm-demo lock clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

setup: $(READY)

$(READY): envs/requirements.txt envs/setup.sh pyproject.toml $(PLUGIN)/pyproject.toml
	@envs/setup.sh $(VENV)
	@touch $@

demo: $(READY)
	@. $(BIN)/activate && snakemake --cores $(CORES) --quiet rules host && echo && mem results digits_lt

test: lint
	@. $(BIN)/activate && pytest -n $(CORES) --dist loadfile --no-loadscope-reorder

lint: $(READY)
	@. $(BIN)/activate && ruff check --quiet && ruff format --check --quiet && snakefmt --check --compact-diff Snakefile workflow \
	  && lint-imports --no-logo && snakemake --lint && pyright --warnings

docs: $(READY)
	@. $(BIN)/activate && NO_MKDOCS_2_WARNING=1 mkdocs build --quiet && echo "build/site/index.html"

tables: $(READY)
	@$(BIN)/python docs/_site/tables.py

slurm-up: $(READY)
	@$(BIN)/python -m cluster.throwaway up

slurm-down: $(READY)
	@$(BIN)/python -m cluster.throwaway down

slurm-demo: $(READY)
	@mkdir -p build/slurm-demo
	@. $(BIN)/activate && python -m cluster.throwaway run sh -c "snakemake --profile slurm --directory build/slurm-demo \
	  --config 'compute={\"pretrain\": {\"nodes\": 2}}' --quiet rules host \
	  && sacct --allocations --format=JobID%12,JobName%24,NNodes,NodeList,State,Elapsed" \
	  && cd build/slurm-demo && mem results digits_lt

lock:
	@. $(BIN)/activate && uv pip compile pyproject.toml $(PLUGIN)/pyproject.toml --extra dev --universal \
	  --python-version 3.11 --upgrade --no-emit-index-url --no-annotate --no-header --quiet --output-file envs/requirements.txt

clean:
	rm -rf $(VENV) runs results logs .snakemake
