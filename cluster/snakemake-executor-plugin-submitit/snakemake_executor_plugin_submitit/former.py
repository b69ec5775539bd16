"""Jobs that a former head submitted: taken up where they do what is to be done, ended where they do not."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_plugin_submitit import requeue
from snakemake_executor_plugin_submitit.paths import job_folder
from snakemake_executor_plugin_submitit.registry import Record, Registry, current, key_of
from snakemake_executor_plugin_submitit.slurm import Slurm
from snakemake_executor_plugin_submitit.states import Kind, State
from snakemake_executor_plugin_submitit.submission import Submission

_PATIENCE_SECONDS = 120


class Former:
    """What the records of earlier heads say; each is looked at once."""

    def __init__(self, registry: Registry, cluster: Any, logger: Any) -> None:
        self._registry = registry
        self._cluster = cluster
        self._logger = logger
        self._records = registry.all() if isinstance(cluster, Slurm) else {}
        self._states: dict[str, State] = {}

    def ask(self, jobs: Sequence[Any]) -> None:
        """Ask once for the states of the recorded jobs among some that are to be submitted."""
        wanted = {self._records[key].job_id for key in map(key_of, jobs) if key in self._records}
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while wanted:
            self._states |= self._cluster.poll(wanted)
            unsure = [job_id for job_id in wanted if self._states[job_id].kind is Kind.UNSURE]
            if not unsure or time.monotonic() > deadline:
                return
            time.sleep(1)

    def take_up(self, submission: Submission) -> bool:
        """Let a submission be a former head's job if that does, or did, the same.

        Raises:
            WorkflowError: It cannot be found out whether that job still runs, or it cannot be ended.
        """
        record = self._records.pop(submission.key, None)
        if record is None:
            return False
        state = self._states[record.job_id]
        if state.kind is Kind.UNSURE:
            self._records[submission.key] = record
            raise WorkflowError(
                f"SLURM does not say whether job {record.job_id}, which a former run submitted for these outputs, "
                "still runs. Run the same command again when SLURM answers (sacct, squeue)."
            )
        alive = state.kind in (Kind.PENDING, Kind.RUNNING)
        useful = alive or (state.kind is Kind.DONE and current(record, submission.job))
        if useful and record.fingerprint == submission.fingerprint:
            _become(submission, record)
            self._logger.info(
                f"SLURM job {record.job_id} of a former run does this already ({state.word}); it is taken up."
            )
            return True
        if alive:
            self._end(record)
        self._registry.drop(submission.key)
        return False

    def _end(self, record: Record) -> None:
        self._logger.warning(
            f"SLURM job {record.job_id} of a former run makes the same outputs with another command; it is cancelled."
        )
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            self._cluster.cancel([record.job_id])
            if not self._cluster.has(record.job_id):
                return
            time.sleep(1)
        raise WorkflowError(f"SLURM job {record.job_id} of a former run still runs after it was cancelled: end it")


def _become(submission: Submission, record: Record) -> None:
    submission.token, submission.index = record.token, record.index
    submission.folder = job_folder(f"{record.token}-{record.index}", Path(record.logs))
    submission.job_id, submission.submitted_at = record.job_id, record.submitted
    submission.requeues = len(requeue.earlier(submission.folder.requeues))
    if submission.request.tasks != record.tasks:
        submission.request = replace(submission.request, nodes=1, tasks_per_node=record.tasks)
