"""Re-attach to jobs of an earlier workflow process if their commands are unchanged, and cancel the others."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_plugin_submitit import bundles, requeue
from snakemake_executor_plugin_submitit.paths import REGISTRY, job_folder, submission_folder
from snakemake_executor_plugin_submitit.queries import QueryFailed
from snakemake_executor_plugin_submitit.registry import Record, Registry, record_key
from snakemake_executor_plugin_submitit.slurm import Slurm
from snakemake_executor_plugin_submitit.states import UNKNOWN, Kind, State, ranks_decide
from snakemake_executor_plugin_submitit.submission import Submission

_TIMEOUT_SECONDS = 120
_OUTPUT_POLL_SECONDS = 0.5
_COMPLETED = State(Kind.DONE, "COMPLETED")
_ENDED = State(Kind.GONE, "UNKNOWN")
_OTHER_CLUSTER = State(Kind.UNKNOWN, "OTHER_CLUSTER")


class ReattachedJobs:
    """Jobs that earlier workflow processes recorded. Each record is used once."""

    def __init__(self, registry: Registry, cluster: Any, logger: Any, *, latency_wait: float) -> None:
        self._registry = registry
        self._cluster = cluster
        self._logger = logger
        self._latency_wait = latency_wait
        self._records = registry.read_all() if isinstance(cluster, Slurm) else {}
        self._states: dict[str, State] = {}
        """States by the key of the record."""

    def query_states(self, jobs: Sequence[Any]) -> None:
        """Determine the states of the recorded jobs that correspond to jobs about to be submitted.

        If such a job has just finished, wait until its outputs are visible on this machine.
        """
        found = {key: job for job in jobs if (key := record_key(job)) in self._records}
        if not found:
            return
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while True:
            try:
                self._states |= self._query(found)
                break
            except QueryFailed:
                if time.monotonic() > deadline:
                    self._states |= dict.fromkeys(found, UNKNOWN)
                    return
                time.sleep(1)
        self._wait_for_outputs([(self._records[key], job) for key, job in found.items() if self._is_done(key)])

    def drop_finished(self, jobs: Sequence[Any]) -> None:
        """Remove the records and files of finished jobs that the workflow does not need to run.

        The earlier workflow process was killed after Snakemake had processed their outputs.
        """
        keys = {record_key(job) for job in jobs} & self._records.keys() if self._records else set()
        try:
            self._find_numbers(keys)
        except QueryFailed:  # the next workflow process removes these records
            keys = {key for key in keys if self._records[key].job_id}
        for key in keys:
            record = self._records[key]
            if not record.job_id or self._has_succeeded(record):  # without a number, SLURM did not accept the job
                del self._records[key]
                self._registry.drop(record.token, [record.index], [key])
                self._cluster.remove_files(record.token, record.job_id, record.index)
                shutil.rmtree(job_folder(f"{record.token}-{record.index}", Path(record.logs)).root, ignore_errors=True)

    def _is_done(self, key: str) -> bool:
        return self._states[key].kind is Kind.DONE

    def _query(self, keys: Mapping[str, Any]) -> dict[str, State]:
        """Return the states of recorded jobs.

        A job that the controller lists under the recorded number belongs to the record only if it has the record's
        token: a new controller assigns the same numbers again. Other jobs have ended, and their ranks recorded the
        outcome.

        Raises:
            QueryFailed: The controller does not respond.
        """
        self._find_numbers(keys)
        site = self._cluster.site_name()
        elsewhere = {key for key in keys if site and self._records[key].cluster not in ("", site)}
        ids = {self._records[key].job_id for key in keys if key not in elsewhere} - {""}
        listed = self._cluster.listed_jobs(ids) if ids else {}
        states = {}
        for key in keys:
            record = self._records[key]
            job = listed.get(record.job_id) if key not in elsewhere else None
            if job is not None and record.token in job.origin:
                decided = ranks_decide(job.state) and self._has_succeeded(record)
                states[key] = _COMPLETED if decided else job.state
            elif record.job_id and self._has_succeeded(record):
                states[key] = _COMPLETED
            else:
                states[key] = _OTHER_CLUSTER if key in elsewhere else _ENDED
        return states

    def _has_succeeded(self, record: Record) -> bool:
        """Return whether all ranks of a recorded job recorded success."""
        return self._cluster.outcome(record.token, record.job_id, record.tasks) is Kind.DONE

    def _find_numbers(self, keys: Iterable[str]) -> None:
        """Find the jobs of submissions for which sbatch's answer was not recorded, and record their numbers."""
        for token in {self._records[key].token for key in keys if not self._records[key].job_id}:
            self._cluster.wait_for_sbatch(token)
            number = self._cluster.submitted_number(token)
            if number is None:
                continue
            count = self._registry.submitted_count(token)
            for key, record in self._records.items():
                if record.token == token:
                    self._records[key] = replace(
                        record, job_id=bundles.job_id(number, record.index, count, record.bundle)
                    )
            self._registry.set_number(token, number)

    def _wait_for_outputs(self, finished: Sequence[tuple[Record, Any]]) -> None:
        """Wait for the outputs of jobs that finished less than `latency_wait` seconds ago."""
        deadlines = {
            path: _finish_time(record) + self._latency_wait for record, job in finished for path in _outputs(job)
        }
        announced = False
        while late := [path for path, end in deadlines.items() if time.time() < end and not _is_visible(path)]:
            if not announced:
                self._logger.info(
                    f"Waiting at most {self._latency_wait:g} seconds for {len(late)} outputs of finished SLURM jobs."
                )
                announced = True
            time.sleep(_OUTPUT_POLL_SECONDS)

    def reattach(self, submission: Submission) -> bool:
        """Attach a submission to its recorded job if that job runs, or successfully ran, the same command.

        Returns:
            Whether the submission was attached. If not, the job must be submitted.

        Raises:
            WorkflowError: The state of the recorded job is unknown, or the recorded job could not be cancelled.
        """
        record = self._records.get(submission.key)
        if record is None:
            return False
        state = self._states[submission.key]
        if state.kind is Kind.UNKNOWN:
            raise WorkflowError(self._unknown(record, state))
        del self._records[submission.key]
        active = state.kind in (Kind.PENDING, Kind.RUNNING)
        useful = active or (state.kind is Kind.DONE and outputs_are_current(record, submission.job))
        if useful and record.fingerprint == submission.fingerprint:
            _attach(submission, record)
            submission.settled = None if active else state
            self._logger.info(f"Re-attached to SLURM job {record.job_id} of an earlier run ({state.name}).")
            return True
        if active:
            self._cancel(record)
            self._end_bundle(record)
        self._registry.drop(record.token, [record.index], [submission.key])
        return False

    def _end_bundle(self, cancelled: Record) -> None:
        """Update the states of the other jobs in the bundle of a cancelled job."""
        for key, record in self._records.items():
            if key in self._states and record.token == cancelled.token and bundles.is_bundled(record.job_id):
                done = self._cluster.outcome(record.token, record.job_id, record.tasks) is Kind.DONE
                if bundles.cluster_id(record.job_id) == bundles.cluster_id(cancelled.job_id):
                    self._states[key] = _COMPLETED if done else _ENDED

    def _unknown(self, record: Record, state: State) -> str:
        job = f"job {record.job_id}" if record.job_id else "the job"
        if state is _OTHER_CLUSTER:
            return (
                f"An earlier run submitted {job} for these outputs to the SLURM cluster {record.cluster}, and this "
                f"machine uses {self._cluster.site_name()}. Run the same command on a machine of {record.cluster}. If "
                f"the job has ended or was cancelled there, delete {REGISTRY / record.token}.jsonl and run the same "
                "command here."
            )
        return (
            f"Cannot determine whether {job}, which an earlier run submitted for these outputs, is still running. Run "
            "the same command again when SLURM responds (squeue)."
        )

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


def outputs_are_current(record: Record, job: Any) -> bool:
    """Return whether all outputs of a finished job exist and no input changed after the job was submitted."""
    outputs = list(_outputs(job))
    inputs = [str(path) for path in job.input]
    if not outputs or not all(os.path.lexists(path) for path in outputs):
        return False
    return all(os.path.getmtime(path) <= record.submitted for path in inputs if os.path.exists(path))


def _outputs(job: Any) -> Iterator[str]:
    for member in job.jobs if job.is_group() else [job]:
        yield from (str(path) for path in member.output)


def _is_visible(path: str) -> bool:
    """Return whether a file exists, after updating this machine's cached listing of its folder."""
    if os.path.lexists(path):
        return True
    folder = os.path.dirname(path) or "."
    return os.path.isdir(folder) and os.path.basename(path) in os.listdir(folder)


def _finish_time(record: Record) -> float:
    """Return the time at which the ranks recorded the job's outcome, or 0 if no such file exists."""
    files = submission_folder(record.token).glob(f"{bundles.cluster_id(record.job_id)}_*_result.pkl")
    return max((path.stat().st_mtime for path in files), default=0.0)


def _attach(submission: Submission, record: Record) -> None:
    submission.token, submission.index = record.token, record.index
    submission.folder = job_folder(f"{record.token}-{record.index}", Path(record.logs))
    submission.job_id, submission.submitted_at = record.job_id, record.submitted
    submission.requeues = len(requeue.read_requeues(submission.folder.requeues))
    if submission.request.tasks != record.tasks:
        submission.request = replace(submission.request, nodes=1, tasks_per_node=record.tasks)
