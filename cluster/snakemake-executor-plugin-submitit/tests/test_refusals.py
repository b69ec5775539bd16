"""Invalid resources and settings raise an error that names them before any job is submitted."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake.settings.types import DeploymentMethod
from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_plugin_submitit import command
from snakemake_executor_plugin_submitit.resources import Request
from workflow_runner import BIN

pytestmark = [pytest.mark.stage, pytest.mark.timeout(100)]
LOCAL = ("--submitit-cluster", "local")
NOTEBOOK = """\
{"cells": [], "metadata": {"language_info": {"name": "python", "file_extension": ".py"},
 "kernelspec": {"name": "python3"}}, "nbformat": 4, "nbformat_minor": 5}"""


def rule(body: str) -> str:
    lines = "\n    ".join(body.strip().splitlines())
    return f"""\
rule all:
    input: "a.txt", "fine.txt"
rule fine:
    output: touch("fine.txt")
    shell: "true"
rule a:
    output: "a.txt"
    {lines}
"""


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("resources: tasks_per_node=2\nscript: 's.py'", "a script: rule runs in a single process"),
        ("resources: nodes=2\nrun:\n    pass", "a run: rule runs in a single process"),
        ("resources: tasks=2\nnotebook: 'n.ipynb'", "a notebook: rule runs in a single process"),
        ("resources: tasks=2\nshadow: 'minimal'\nshell: 'true'", "its rule has a shadow directory"),
        ("resources: tasks=2\nshell: 'ls {resources.tmpdir}'", "known only on the node (use $TMPDIR)"),
        ("resources: slurm_partion='x'\nshell: 'true'", "slurm_partion: unknown resource for the submitit executor"),
        ("resources: slurm_partion='x'\nshell: 'true'", "Did you mean slurm_partition?"),
        ("resources: tasks=3, nodes=2\nshell: 'true'", "tasks=3 cannot be distributed evenly over nodes=2"),
        ("resources: mem_mb=1, mem_mb_per_cpu=1\nshell: 'true'", "mem_mb and mem_mb_per_cpu are mutually exclusive"),
        ("resources: gpu=4, nodes=2, gpus_per_node=1\nshell: 'true'", "gpu=4 (for the whole job) contradicts nodes=2"),
        ("resources: nodes=0\nshell: 'true'", "nodes=0: expected an integer of at least 1"),
        ("resources: slurm_extra='--time=5'\nshell: 'true'", "--time is not allowed. Use the resource runtime"),
        ("resources: mpi='srun'\nshell: 'true'", "use tasks_per_node"),
        ("group: 'g'\nresources: tasks=2\nshell: 'true'", "a group of jobs runs as one task"),
    ],
)
def test_an_invalid_rule_stops_the_workflow_before_any_job_is_submitted(workflow, body, message):
    flow = workflow(rule(body))
    flow.path("s.py").write_text("")
    flow.path("n.ipynb").write_text(NOTEBOOK)
    printed = flow.run(*LOCAL, ok=False)
    assert message in printed
    assert "No job was submitted." in printed
    assert "rule a" in printed
    assert not flow.path("fine.txt").exists()
    assert not flow.path(".snakemake/submitit/submissions").exists()


@pytest.mark.parametrize(
    ("method", "obstacle"),
    [
        (DeploymentMethod.CONDA, "its rule has a conda environment"),
        (DeploymentMethod.APPTAINER, "its rule has a container"),
        (DeploymentMethod.ENV_MODULES, "its rule has environment modules"),
    ],
)
def test_software_deployed_by_snakemake_is_refused_for_several_tasks_and_needs_an_inner_snakemake(method, obstacle):
    job = SimpleNamespace(
        is_group=lambda: False, is_shell=True, is_script=False, is_notebook=False, is_wrapper=False, is_shadow=False,
        conda_env_spec="envs/torch.yaml", container_img_url="docker://torch", env_modules="torch/2.8",
    )  # fmt: skip
    settings = SimpleNamespace(deployment_method={method})
    cache = SimpleNamespace(cache=None)
    flow = SimpleNamespace(deployment_settings=settings, workflow_settings=cache)
    with pytest.raises(WorkflowError, match=f"1 nodes x 2 tasks requested, but {obstacle}"):
        command.check_tasks(job, Request(tasks_per_node=2), flow)
    command.check_tasks(job, Request(), flow)
    assert command.inner_snakemake_reason(job, flow) == obstacle


def test_a_resource_that_snakemakes_scheduler_limits_is_accepted(workflow):
    flow = workflow(rule("resources: licences=1\nshell: 'touch {output}'"))
    flow.run(*LOCAL, "--resources", "licences=2")


def test_resources_that_depend_on_a_file_of_another_job_are_checked_later(workflow):
    flow = workflow(
        """
        rule first:
            output: "first.txt"
            shell: "echo 7 > {output}"
        rule second:
            default_target: True
            input: "first.txt"
            output: "second.txt"
            resources: mem_mb=lambda wildcards, input: 100 * int(open(input[0]).read())
            shell: "echo {resources.mem_mb} > {output}"
        """
    )
    flow.run(*LOCAL)
    assert flow.text("second.txt") == "700\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--submitit-ports", "90"), "--submitit-ports 90: expected FIRST-LAST"),
        (("--submitit-max-requeues", "-1"), "--submitit-max-requeues -1: expected at least 0"),
        (("--submitit-memory-growth", "0.5"), "--submitit-memory-growth 0.5: expected at least 1"),
        (("--shared-fs-usage", "persistence", "input-output"), "requires a file system that this machine shares"),
    ],
)
def test_invalid_settings_are_refused(workflow, arguments, message):
    flow = workflow(rule("shell: 'touch {output}'"))
    assert message in flow.run(*LOCAL, *arguments, ok=False)


def test_a_machine_without_slurm_is_reported(workflow, tmp_path):
    bare = tmp_path / "bin"
    bare.mkdir()
    for name in ("bash", "sh", "env", "which"):
        (bare / name).symlink_to(f"/bin/{name}" if Path(f"/bin/{name}").exists() else f"/usr/bin/{name}")
    flow = workflow(rule("shell: 'touch {output}'"), PATH=f"{BIN}:{bare}")
    printed = flow.run(ok=False)
    assert "SLURM is not available on this machine: sbatch, srun, scancel, squeue not found on PATH" in printed


def test_a_job_that_sbatch_rejects_fails_and_other_jobs_continue(workflow, tmp_path):
    fake = tmp_path / "fake"
    fake.mkdir()
    for name in ("srun", "scancel", "squeue", "sacct"):
        (fake / name).write_text("#!/bin/sh\n")
    (fake / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: nowhere' >&2\nexit 1\n")
    for path in fake.iterdir():
        path.chmod(0o755)
    flow = workflow(
        """
        localrules: fine
        rule all:
            input: "a.txt", "fine.txt"
        rule fine:
            output: "fine.txt"
            shell: "sleep 3; touch {output}"
        rule a:
            output: "a.txt"
            shell: "touch {output}"
        """,
        PATH=f"{BIN}:{fake}:{os.environ['PATH']}",
    )
    printed = flow.run("--keep-going", ok=False)
    assert "slurm rejected this job: invalid partition specified: nowhere" in printed
    assert flow.path("fine.txt").exists()
