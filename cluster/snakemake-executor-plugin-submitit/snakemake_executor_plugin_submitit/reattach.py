"""Re-attach to jobs of an earlier workflow process if their commands are unchanged, and cancel the others."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_plugin_submitit import requeue
from snakemake_executor_plugin_submitit.paths import job_folder
from snakemake_executor_plugin_submitit.registry import Record, Registry, outputs_are_current, record_key
from snakemake_executor_plugin_submitit.slurm import Slurm
from snakemake_executor_plugin_submitit.states import Kind, State
from snakemake_executor_plugin_submitit.submission import Submission

_TIMEOUT_SECONDS = 120


class ReattachedJobs:
    """Jobs that earlier workflow processes recorded. Each record is used once."""

    def __init__(self, registry: Registry, cluster: Any, logger: Any) -> None:
        self._registry = registry
        self._cluster = cluster
        self._logger = logger
        self._records = registry.read_all() if isinstance(cluster, Slurm) else {}
        self._states: dict[str, State] = {}

    def query_states(self, jobs: Sequence[Any]) -> None:
        """Query the states of the recorded jobs that correspond to jobs about to be submitted."""
        wanted = {self._records[key].job_id for key in map(record_key, jobs) if key in self._records}
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while wanted:
            self._states |= self._cluster.poll(wanted)
            unknown = [job_id for job_id in wanted if self._states[job_id].kind is Kind.UNKNOWN]
            if not unknown or time.monotonic() > deadline:
                return
            time.sleep(1)

    def reattach(self, submission: Submission) -> bool:
        """Attach a submission to its recorded job if that job runs, or successfully ran, the same command.

        Returns:
            Whether the submission was attached. If not, the job must be submitted.

        Raises:
            WorkflowError: The state of the recorded job is unknown, or the recorded job could not be cancelled.
        """
        record = self._records.pop(submission.key, None)
        if record is None:
            return False
        state = self._states[record.job_id]
        if state.kind is Kind.UNKNOWN:
            self._records[submission.key] = record
            raise WorkflowError(
                f"Cannot determine whether job {record.job_id}, which an earlier run submitted for these outputs, "
                "is still running. Run the same command again when SLURM responds (sacct, squeue)."
            )
        active = state.kind in (Kind.PENDING, Kind.RUNNING)
        useful = active or (state.kind is Kind.DONE and outputs_are_current(record, submission.job))
        if useful and record.fingerprint == submission.fingerprint:
            _attach(submission, record)
            self._logger.info(f"Re-attached to SLURM job {record.job_id} of an earlier run ({state.name}).")
            return True
        if active:
            self._cancel(record)
        self._registry.drop(submission.key)
        return False

    def _cancel(self, record: Record) -> None:
        self._logger.warning(
            f"Cancelling SLURM job {record.job_id} of an earlier run, because it creates the same outputs with a "
            "different command."
        )
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            self._cluster.cancel([record.job_id])
            if not self._cluster.is_active(record.job_id):
                return
            time.sleep(1)
        raise WorkflowError(
            f"SLURM job {record.job_id} of an earlier run is still running after it was cancelled. End it with "
            f"`scancel {record.job_id}`, then run the same command again."
        )


def _attach(submission: Submission, record: Record) -> None:
    submission.token, submission.index = record.token, record.index
    submission.folder = job_folder(f"{record.token}-{record.index}", Path(record.logs))
    submission.job_id, submission.submitted_at = record.job_id, record.submitted
    submission.requeues = len(requeue.read_requeues(submission.folder.requeues))
    if submission.request.tasks != record.tasks:
        submission.request = replace(submission.request, nodes=1, tasks_per_node=record.tasks)
