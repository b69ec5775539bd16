"""Bundles: several jobs of a rule that run one after another in one job of the cluster.

Each job of a bundle remains a Snakemake job with its own folder, log, outcome and record. Its id is the id of the
bundle's job, followed by `#` and the index of the job in its submission, for example `12_3#53`. The outcome of a job is
that of its own command, which the rank records in the job's folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from snakemake_executor_plugin_submitit.failures import TERMINATED, first_failure
from snakemake_executor_plugin_submitit.paths import STATE, JobFolder, job_folder
from snakemake_executor_plugin_submitit.states import Kind, State

_KILLED = ("exit status 137", "killed by signal 9")
"""Failures that an exceeded memory limit can cause."""
_WITHOUT_CAUSE = ("COMPLETED", "FAILED", "UNKNOWN")

Item = TypeVar("Item")


def bundles_of(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Divide the jobs of a submission into bundles of at most `size` jobs."""
    return [items[first : first + size] for first in range(0, len(items), size)]


def job_id(number: str, index: int, count: int, bundle: int) -> str:
    """Return the id of one of the jobs that sbatch submitted under a number.

    Args:
        number: The number of the job or of the array.
        index: Index of the job in its submission.
        count: Number of jobs in the submission.
        bundle: Maximum number of jobs in a bundle.
    """
    elements = -(-count // bundle)
    element = number if elements == 1 else f"{number}_{index // bundle}"
    return element if bundle == 1 else f"{element}#{index}"


def cluster_id(job_id: str) -> str:
    """Return the id of the cluster's job that contains a job: the id itself, unless the job is in a bundle."""
    return job_id.partition("#")[0]


def is_bundled(job_id: str) -> bool:
    """Return whether a job is in a bundle."""
    return "#" in job_id


def folder_of(token: str, job_id: str) -> JobFolder:
    """Return the folder of a job in a bundle. Its logs are unknown."""
    return job_folder(f"{token}-{job_id.partition('#')[2]}", Path())


def recorded_outcome(folder: JobFolder) -> Kind:
    """Return the outcome that the rank recorded for a job in a bundle, or GONE if the job has not ended."""
    if folder.completed(0).exists():
        return Kind.DONE
    return Kind.GONE if first_failure(folder) is None else Kind.FAILED


def state_of_job(folder: JobFolder, bundle: State) -> State:
    """Return the state of a job whose bundle has ended.

    A job that failed by itself has failed in any state of its bundle. If the bundle exceeded its memory limit, the job
    that was killed has this state. A job that has not ended has the state of the bundle. If this state does not explain
    why the job has not ended, the bundle was stopped.
    """
    outcome = recorded_outcome(folder)
    if outcome is Kind.DONE:
        return State(Kind.DONE, "COMPLETED", bundle.nodes)
    failure = first_failure(folder)
    if failure is not None and not (bundle.name == "OUT_OF_MEMORY" and failure.text in _KILLED):
        return State(Kind.FAILED, "FAILED", bundle.nodes)
    return replace(bundle, kind=Kind.FAILED, name=TERMINATED if bundle.name in _WITHOUT_CAUSE else bundle.name)


def others_exist(token: str, job_id: str) -> bool:
    """Return whether the folder of another job of the same submission still exists."""
    own = folder_of(token, job_id).root.name
    return any(folder.name != own for folder in (STATE / "jobs").glob(f"{token}-*"))
