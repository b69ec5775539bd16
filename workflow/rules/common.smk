"""The study and its runs; what the rules ask of them."""

import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.settings.types import DeploymentMethod

from mem.errors import UserError
from mem.workflow_process import WorkflowProcess
from mem.runs.run_config import write_configs
from mem.runs.dag import study_runs
from mem.config.load import load_study, study_files

ENVIRONMENT = "../../envs/environment.yaml"

if DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method:
    print(
        "mem: --software-deployment-method conda cannot make this environment, which holds mem itself.\n"
        "Make it once and activate it: conda env create -f envs/environment.yaml && conda activate mem",
        file=sys.stderr,
    )
    sys.exit(2)

try:
    STUDY = load_study(
        *study_files(
            workflow.config_settings.config,
            workflow.config_settings.configfiles,
            Path(workflow.basedir, "config"),
        )
    )
    PLAN = study_runs(STUDY)
    write_configs(PLAN, STUDY)
except UserError as error:
    print(f"mem: {error}", file=sys.stderr)
    sys.exit(2)

RUNS = {run.key: run for run in PLAN}
REPORT = PLAN[-1]
HEAD = WorkflowProcess(Path())
RESULTS = f"results/{STUDY.study}"


wildcard_constraints:
    dataset=r"[^/]+",
    backbone=r"[^/]+",
    key=r"[0-9a-f]{12}",
    study=r"[^/]+",


def inputs(wildcards):
    """The finished runs that a run builds on, by name."""
    run = RUNS.get(wildcards.key)
    if run is None:
        raise WorkflowError(
            f"No run of study {STUDY.study} has the key {wildcards.key}; `mem runs` lists them."
        )
    return {name: f"{parent.folder}/run.json" for name, parent in run.inputs.items()}


def compute(stage):
    """Resources of a stage, from the study; `--set-resources STAGE:NAME=VALUE` overrides them."""
    asked = getattr(STUDY.compute, stage)
    return {
        "mem_mb": round(1000 * asked.memory_gb),
        "runtime": max(1, round(60 * asked.hours)),
        "nodes": asked.nodes,
        "tasks_per_node": asked.ranks_per_node,
        "gpus_per_node": asked.gpus_per_node,
    }


def threads_of(stage):
    """Cores of a stage, from the study."""
    return getattr(STUDY.compute, stage).threads


def shown(path, caption, category):
    """An output of the report that `snakemake --report` shows too."""
    return report(
        update(f"{RESULTS}/{path}"),
        caption=f"../report/{caption}.rst",
        category=category,
    )
