"""Determine whether a job runs the rule's shell command directly or an inner Snakemake.

An inner Snakemake costs more than a second of CPU time per job. Plain shell rules do not need one: rank 0 prepares the
outputs, and the workflow process checks, touches and protects them and records their metadata. Jobs of such rules
therefore run the shell command directly. The tests check that both methods produce the same results.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

from snakemake.io import is_flagged
from snakemake.settings.types import DeploymentMethod
from snakemake.shell import shell

from snakemake_executor_plugin_submitit.resources import Request, ResourceError
from snakemake_executor_plugin_submitit.work import Preparation

_TBD = "<TBD>"
"""Snakemake's placeholder for values that are known only on the node."""
_MAX_COMMAND_CHARACTERS = 60_000
"""Maximum length of a command that is passed as a single argument."""
_RANK_MB = 100
_RANK_WITH_SNAKEMAKE_MB = 300
TASK_RESOURCES = ("nodes", "tasks", "tasks_per_node")
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "GOTO_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def shell_command(job: Any) -> str | None:
    """Return a rule's shell command as Snakemake passes it to the shell, or None if the rule has none."""
    if job.is_group() or not job.is_shell:
        return None
    executable = job.resources.get("shell_exec")
    parts = (shell._get_process_prefix(executable), job.shellcmd, shell._process_suffix)
    return " ".join(parts).strip()


def shell_executable(job: Any) -> str:
    """Return the path of the shell that runs a rule's command."""
    return (None if job.is_group() else job.resources.get("shell_exec")) or shell.get_executable() or "/bin/sh"


def thread_variables(job: Any) -> dict[str, str]:
    """Return the variables that Snakemake sets for a shell command, except those for the temporary directory."""
    return dict.fromkeys(_THREAD_VARIABLES, str(job.threads))


def rank_startup_mb(job: Any, workflow: Any, *, inner: bool) -> int:
    """Return the memory in MB that a rank needs to run submitit and, if the job requires it, an inner Snakemake."""
    return _RANK_WITH_SNAKEMAKE_MB if inner or inner_snakemake_reason(job, workflow) else _RANK_MB


def preparation(job: Any, workflow: Any) -> Preparation:
    """Return the preparation that rank 0 performs before the shell command starts."""
    return Preparation(
        outputs=tuple((str(path), bool(path.is_directory)) for path in job.output),
        logs=tuple(str(path) for path in job.log),
        inputs=tuple(str(path) for path in job.input),
        latency_wait=float(workflow.execution_settings.latency_wait),
    )


def inner_snakemake_reason(job: Any, workflow: Any) -> str | None:
    """Return why a job needs an inner Snakemake, or None if it does not."""
    if job.is_group():
        return "it is a group of jobs"
    if not job.is_shell:
        return "its rule has no shell command"
    reasons = chain(_rule_reasons(job, workflow), _file_reasons(job), _command_reasons(job, workflow))
    return next(reasons, None)


def _rule_reasons(job: Any, workflow: Any) -> Iterator[str]:
    yield from _deployment_reasons(job, workflow)
    if job.is_shadow:
        yield "its rule has a shadow directory"
    if job.benchmark is not None:
        yield "its rule has a benchmark"
    if job.rule.is_handover or job.is_template_engine:
        yield "its rule uses handover or a template engine"
    if workflow.workflow_settings.cache is not None and job.rule.cache:
        yield "its rule uses the between-workflow cache"
    if workflow.remote_execution_settings.precommand:
        yield "the workflow has a --precommand"


def _deployment_reasons(job: Any, workflow: Any) -> Iterator[str]:
    methods = workflow.deployment_settings.deployment_method
    if DeploymentMethod.CONDA in methods and job.conda_env_spec:
        yield "its rule has a conda environment"
    if DeploymentMethod.APPTAINER in methods and job.container_img_url:
        yield "its rule has a container"
    if DeploymentMethod.ENV_MODULES in methods and job.env_modules:
        yield "its rule has environment modules"


def _file_reasons(job: Any) -> Iterator[str]:
    for path in chain(job.input, job.output, job.log):
        if path.is_storage:
            yield f"{path} is in remote storage"
    for path in job.output:
        for flag in ("update", "pipe", "service"):
            if is_flagged(path, flag):
                yield f"{path} is marked {flag}"
    for path in job.input:
        if is_flagged(path, "sourcecache_entry") or is_flagged(path, "pipe") or is_flagged(path, "service"):
            yield f"{path} is not a plain file"


def _command_reasons(job: Any, workflow: Any) -> Iterator[str]:
    raw = job.rule.shellcmd
    if "{jobid" in raw or "{bench_iteration" in raw:
        yield "its command uses values that only an inner Snakemake can provide"
    temporary = job.rule.resources.get("tmpdir")
    if temporary is not None and temporary.raw not in ("system_tmpdir", None):
        yield "it sets a custom temporary directory"
    command = job.shellcmd
    if _TBD in command:
        yield "its command uses a resource that is known only on the node"
    if len(command) > _MAX_COMMAND_CHARACTERS:
        yield "its command is too long"


def check_group_member(job: Any) -> None:
    """Check that a job inside a group requests a single task.

    Raises:
        ResourceError: The job requests several tasks. The message names the rule and the resource.
    """
    for name in TASK_RESOURCES:
        value = job.resources.get(name)
        if value is not None and str(value) != _TBD and int(value) > 1:
            raise ResourceError(
                f"rule {job.rule.name} requests {name}={value} inside a group, but a group of jobs runs as one task. "
                "Remove the rule from the group, or request a single task"
            )


def check_tasks(job: Any, request: Request, workflow: Any) -> None:
    """Check that a job with several tasks has a shell command that every rank can run.

    Raises:
        ResourceError: The job cannot run with several tasks. The message states the reason and the fix.
    """
    if request.tasks == 1:
        return
    requested = f"{request.nodes} nodes x {request.tasks_per_node} tasks requested"
    kind = "script" if job.is_script else "notebook" if job.is_notebook else "wrapper" if job.is_wrapper else "run"
    if not job.is_shell:
        raise ResourceError(
            f"{requested}, but a {kind}: rule runs in a single process. Only a shell: command runs on every rank. "
            "Use shell: instead, or request a single task"
        )
    obstacle = next(_deployment_reasons(job, workflow), None)
    if job.is_shadow:
        obstacle = "its rule has a shadow directory"
    if workflow.workflow_settings.cache is not None and job.rule.cache:
        obstacle = "its rule uses the between-workflow cache"
    if obstacle is None and _TBD in job.shellcmd:
        obstacle = "its command uses {resources.tmpdir}, which is known only on the node (use $TMPDIR)"
    if obstacle is None:
        obstacle = next((reason for reason in _file_reasons(job) if "update" not in reason), None)
    if obstacle is not None:
        raise ResourceError(
            f"{requested}, but {obstacle}, which Snakemake supports only for a single process. "
            "Activate the environment before you start snakemake, or request a single task"
        )
