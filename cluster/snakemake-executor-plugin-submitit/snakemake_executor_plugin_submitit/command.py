"""What a Snakemake job runs: its shell command at once, or an inner Snakemake.

Starting a Snakemake in each job costs more than a second of a core. For a plain shell rule all that it does besides
running the command is done by the head (before: nothing that the ranks cannot do; after: checking, touching and
protecting outputs, recording metadata). So such rules start their command at once; tests hold the two ways equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

from snakemake.io import is_flagged
from snakemake.settings.types import DeploymentMethod
from snakemake.shell import shell

from snakemake_executor_plugin_submitit.resources import Request, ResourceFault
from snakemake_executor_plugin_submitit.work import Preparation

_TBD = "<TBD>"
_LONGEST = 60_000
"""Characters of a command that are safe as one argument."""
_RANK_MB = 100
_WITH_SNAKEMAKE_MB = 300
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "GOTO_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def shell_command(job: Any) -> str | None:
    """A rule's shell command as Snakemake gives it to the shell; None where the rule has none."""
    if job.is_group() or not job.is_shell:
        return None
    executable = job.resources.get("shell_exec")
    parts = (shell._get_process_prefix(executable), job.shellcmd, shell._process_suffix)
    return " ".join(parts).strip()


def executable(job: Any) -> str:
    """The shell that runs a rule's command."""
    return (None if job.is_group() else job.resources.get("shell_exec")) or shell.get_executable() or "/bin/sh"


def environment(job: Any) -> dict[str, str]:
    """The variables that Snakemake sets for a shell command, but for the temporary directory of the node."""
    return dict.fromkeys(_THREAD_VARIABLES, str(job.threads))


def rank_mb(job: Any, workflow: Any, *, inner: bool) -> int:
    """Memory that starting a rank takes: submitit, and Snakemake where it is started inside the job."""
    return _WITH_SNAKEMAKE_MB if inner or needs_snakemake(job, workflow) else _RANK_MB


def preparation(job: Any, workflow: Any) -> Preparation:
    """What is to be done before a shell command."""
    return Preparation(
        outputs=tuple((str(path), bool(path.is_directory)) for path in job.output),
        logs=tuple(str(path) for path in job.log),
        inputs=tuple(str(path) for path in job.input),
        latency_wait=float(workflow.execution_settings.latency_wait),
    )


def needs_snakemake(job: Any, workflow: Any) -> str | None:
    """Why a job cannot do without an inner Snakemake; None where it can."""
    if job.is_group():
        return "it is a group of jobs"
    if not job.is_shell:
        return "its rule has no shell command"
    return next(chain(_needs_of_rule(job, workflow), _needs_of_files(job), _needs_of_command(job, workflow)), None)


def _needs_of_rule(job: Any, workflow: Any) -> Iterator[str]:
    yield from _deployment(job, workflow)
    if job.is_shadow:
        yield "its rule has a shadow directory"
    if job.benchmark is not None:
        yield "its rule has a benchmark"
    if job.rule.is_handover or job.is_template_engine:
        yield "its rule hands over to another system"
    if workflow.workflow_settings.cache is not None and job.rule.cache:
        yield "its rule is cached between workflows"
    if workflow.remote_execution_settings.precommand:
        yield "there is a --precommand"


def _deployment(job: Any, workflow: Any) -> Iterator[str]:
    methods = workflow.deployment_settings.deployment_method
    if DeploymentMethod.CONDA in methods and job.conda_env_spec:
        yield "its rule has a conda environment"
    if DeploymentMethod.APPTAINER in methods and job.container_img_url:
        yield "its rule has a container"
    if DeploymentMethod.ENV_MODULES in methods and job.env_modules:
        yield "its rule has environment modules"


def _needs_of_files(job: Any) -> Iterator[str]:
    for path in chain(job.input, job.output, job.log):
        if path.is_storage:
            yield f"{path} lies in a storage"
    for path in job.output:
        for flag in ("update", "pipe", "service"):
            if is_flagged(path, flag):
                yield f"{path} is marked {flag}"
    for path in job.input:
        if is_flagged(path, "sourcecache_entry") or is_flagged(path, "pipe") or is_flagged(path, "service"):
            yield f"{path} is no plain file"


def _needs_of_command(job: Any, workflow: Any) -> Iterator[str]:
    raw = job.rule.shellcmd
    if "{jobid" in raw or "{bench_iteration" in raw:
        yield "its command names what only Snakemake knows"
    temporary = job.rule.resources.get("tmpdir")
    if temporary is not None and temporary.raw not in ("system_tmpdir", None):
        yield "it has a temporary directory of its own"
    command = job.shellcmd
    if _TBD in command:
        yield "its command holds a resource that is known on the node only"
    if len(command) > _LONGEST:
        yield "its command is too long"


TASK_RESOURCES = ("nodes", "tasks", "tasks_per_node")


def refuse_group_member(job: Any) -> None:
    """Refuse a job with several tasks inside a group.

    Raises:
        ResourceFault: Names the rule and the resource.
    """
    for name in TASK_RESOURCES:
        value = job.resources.get(name)
        if value is not None and str(value) != _TBD and int(value) > 1:
            raise ResourceFault(
                f"rule {job.rule.name} asks for {name}={value} inside a group, and a group of jobs has one task: "
                "take the rule out of the group, or ask for a single task"
            )


def refuse_several_tasks(job: Any, request: Request, workflow: Any) -> None:
    """Refuse a job with several tasks whose rule is not a shell command that every rank can run.

    Raises:
        ResourceFault: Says why, and what to do.
    """
    if request.tasks == 1:
        return
    asked = f"{request.nodes} nodes x {request.tasks_per_node} tasks"
    kind = "script" if job.is_script else "notebook" if job.is_notebook else "wrapper" if job.is_wrapper else "run"
    if not job.is_shell:
        raise ResourceFault(
            f"{asked}, but a {kind}: rule runs in a single process. Every rank runs the rule's shell: command; "
            f"make it one, or ask for a single task"
        )
    obstacle = next(_deployment(job, workflow), None)
    if job.is_shadow:
        obstacle = "its rule has a shadow directory"
    if workflow.workflow_settings.cache is not None and job.rule.cache:
        obstacle = "its rule is cached between workflows"
    if obstacle is None and _TBD in job.shellcmd:
        obstacle = "its command holds {resources.tmpdir}, which is known on the node only (use $TMPDIR)"
    if obstacle is None:
        obstacle = next((need for need in _needs_of_files(job) if "update" not in need), None)
    if obstacle is not None:
        raise ResourceFault(
            f"{asked}, but {obstacle}, which Snakemake provides to a single process only. "
            "Activate the environment before snakemake starts, or ask for a single task"
        )
