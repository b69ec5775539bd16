"""Load the study and its runs, and define the functions that rules use."""

import sys
from contextlib import contextmanager
from pathlib import Path

from snakemake.settings.types import DeploymentMethod

# Modules in the working folder, such as a torch.py of the user, must not replace installed packages. Snakemake puts the
# folder of the Snakefile at the start of the module path. For other processes, see WorkflowProcess.start.
for entry in (workflow.basedir, Path(workflow.basedir, "workflow", "rules")):
    if str(entry) in sys.path:
        sys.path.remove(str(entry))
        sys.path.append(str(entry))

from mem.errors import UserError
from mem.files import describe_os_error
from mem.jobs.workflow_signals import hide_interrupt_traceback
from mem.models.weights.prepare import require_revision
from mem.projects.last_start import write_last_start
from mem.workflow_process import WorkflowProcess
from mem.runs.run_config import write_configs
from mem.runs.dag import study_runs
from mem.runs.outputs import REPORT_FILES, files_to_restore
from mem.config.load import load_study, study_files

ENVIRONMENT = "../../envs/environment.yaml"
# Folder that --directory specifies, as the user wrote it: the printed paths are valid where the user stands.
DIRECTORY = Path(workflow.overwrite_workdir or "")


hide_interrupt_traceback()


@contextmanager
def errors_as_messages():
    """Print an error that the user can solve without a traceback, and exit with status 2."""
    try:
        yield
    except (UserError, OSError) as error:
        text = (
            error
            if isinstance(error, UserError)
            else describe_os_error(error, Path.cwd())
        )
        print(f"mem: {text}", file=sys.stderr)
        sys.exit(2)


if not workflow.modifier.is_main_snakefile():
    print(
        "mem: this workflow cannot be used as a module of another workflow. It reads its study from the command line,\n"
        "and starts the MLflow mirror and locks its folder when it starts, but Snakemake does not start modules.\n"
        "Run it on its own (`mem run STUDY`), or call this command in a rule whose input are your files and whose output is\n"
        "results/STUDY/report/results.csv. See config/README.md.",
        file=sys.stderr,
    )
    sys.exit(2)

if DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method:
    print(
        "mem: --software-deployment-method conda cannot create this environment, because it contains mem itself.\n"
        "Create and activate it first: conda env create -f envs/environment.yaml && conda activate mem, "
        'and then run envs/setup.sh "$CONDA_PREFIX".',
        file=sys.stderr,
    )
    sys.exit(2)

with errors_as_messages():
    STUDY_FILES, OVERRIDES = study_files(
        workflow.config_settings.config,
        workflow.config_settings.configfiles,
        Path(workflow.basedir, "config"),
    )
    STUDY = load_study(STUDY_FILES, OVERRIDES)
    require_revision(STUDY.initial)
    STUDY_RUNS = study_runs(STUDY)
    write_configs(STUDY_RUNS, STUDY)


def prepare_initial_weights():
    """Download and check the initial weights, because jobs on compute nodes have no internet access."""
    if STUDY.initial is not None:
        from mem.plan.initial_weights import prepare_initial_weights

        prepare_initial_weights(
            STUDY, STUDY_RUNS, lambda text: print(text, file=sys.stderr)
        )


def print_results():
    """Print the results of the study, if the whole study was requested, and where its report is."""
    page = Path("results", STUDY.study, "report", "index.html")
    if not workflow.dag_settings.targets and page.exists():
        from mem.report.terminal import study_tables

        try:
            print(f"\n{study_tables(STUDY.study)}")
        except UserError as error:
            print(f"\nmem: {error}")
    shown = f"Report: {DIRECTORY / page}    " if page.exists() else ""
    ui = WORKFLOW_PROCESS.command(f"mem track ui {STUDY.study}")
    print(f"\n{shown}MLflow UI: {ui}\n")


# Deleted files of finished runs. `all` requires them, because Snakemake would not notice that they are missing.
RESTORED = files_to_restore(STUDY_RUNS)
RUNS = {run.key: run for run in STUDY_RUNS}
REPORT = STUDY_RUNS[-1]
WORKFLOW_PROCESS = WorkflowProcess(Path(), DIRECTORY)
RESULTS = f"results/{STUDY.study}"


wildcard_constraints:
    dataset=r"[^/]+",
    backbone=r"[^/]+",
    key=r"[0-9a-f]{12}",
    study=r"[^/]+",


def jobs_on_this_machine():
    """Return whether jobs run on this machine. Snakemake knows the executor only after it has read the Snakefile."""
    cluster = getattr(workflow.executor_settings, "cluster", "slurm")
    return workflow.local_exec or cluster in ("local", "debug")


def inputs(wildcards):
    """Return the paths of the input runs' records, by input name."""
    run = RUNS.get(wildcards.key)
    with errors_as_messages():
        if run is None:
            raise UserError(
                f"Study {STUDY.study} has no run with the key {wildcards.key}. `mem runs STUDY` lists its runs."
            )
    return {name: f"{parent.folder}/run.json" for name, parent in run.inputs.items()}


def compute(stage):
    """Return the resources that the study specifies for a stage.

    Override them with `--set-resources STAGE:NAME=VALUE`.
    """
    settings = getattr(STUDY.compute, stage)
    return {
        "mem_mb": round(1000 * settings.memory_gb),
        "runtime": max(1, round(60 * settings.hours)),
        "nodes": settings.nodes,
        "tasks_per_node": settings.ranks_per_node,
        "gpus_per_node": settings.gpus_per_node,
    }


def bundle(stage):
    """Return how many runs of a stage one SLURM job computes, one after another.

    A large study has twenty such jobs. Runs on images or GPUs take long, so each of them has a job of its own. Override
    the number with `--set-resources STAGE:bundle=N`.
    """
    settings = getattr(STUDY.compute, stage)
    online = STUDY.features is not None and STUDY.features.online
    if online or settings.gpus_per_node or settings.nodes * settings.ranks_per_node > 1:
        return 1
    count = sum(run.stage == stage for run in STUDY_RUNS)
    return min(50, max(1, count // 20))


def threads_of(stage):
    """Return the number of cores that the study specifies for a stage."""
    return getattr(STUDY.compute, stage).threads


def shown(path, caption, category):
    """Mark an output of the report for inclusion in `snakemake --report`."""
    return report(
        update(f"{RESULTS}/{path}"),
        caption=f"../report/{caption}.rst",
        category=category,
    )
