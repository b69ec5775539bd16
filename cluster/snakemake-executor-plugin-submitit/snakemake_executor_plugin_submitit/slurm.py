"""Submit jobs to SLURM with submitit's job scripts and pickles, using one sbatch call per job array."""

from __future__ import annotations

import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from submitit.core.utils import DelayedSubmission, JobPaths
from submitit.slurm.slurm import _make_sbatch_string

from snakemake_executor_plugin_submitit.paths import submission_folder
from snakemake_executor_plugin_submitit.resources import Request
from snakemake_executor_plugin_submitit.states import Kind, State, StatePoller
from snakemake_executor_plugin_submitit.work import Work

_COMMAND_TIMEOUT_SECONDS = 180
_TRANSIENT_ERRORS = ("Unable to contact slurm controller", "Socket timed out", "Connection refused", "temporarily")
_TRIES = 3
_IDS_PER_SCANCEL = 400


class SubmissionRefused(Exception):
    """sbatch rejected a job. The message is sbatch's error message."""


class Slurm:
    """The SLURM cluster to which the `sbatch` command on PATH submits."""

    name = "slurm"
    outlives_workflow_process = True

    def __init__(self, warn: Callable[[str], None], *, signal_delay_seconds: int) -> None:
        self._poller = StatePoller(warn)
        self._signal_delay_seconds = signal_delay_seconds

    def submit(self, works: Sequence[Work], request: Request, token: str, name: str) -> list[str]:
        """Submit jobs with equal requests and return their ids. Several jobs are submitted as one array.

        Raises:
            SubmissionRefused: sbatch rejected the jobs.
        """
        folder = submission_folder(token)
        folder.mkdir(parents=True, exist_ok=True)
        pickles = [folder / f"{index}.pkl" for index in range(len(works))]
        for work, path in zip(works, pickles, strict=True):
            delayed = DelayedSubmission(work)
            delayed.set_timeout(request.minutes or 0, 0)
            delayed.dump(path)
        script = folder / "job.sh"
        script.write_text(self._script(folder, request, name, len(works)))
        number = sbatch([*request.extra, str(script)])
        ids = [number] if len(works) == 1 else [f"{number}_{index}" for index in range(len(works))]
        for job_id, path in zip(ids, pickles, strict=True):
            path.rename(JobPaths(folder, job_id).submitted_pickle)
        return ids

    def poll(self, ids: Collection[str]) -> dict[str, State]:
        """Return the states of jobs with a single query."""
        return self._poller.poll(set(ids))

    def is_active(self, job_id: str) -> bool:
        """Return whether a job is still queued or running. Return True if the controller does not respond."""
        state = self._poller.poll({job_id}, controller=True)[job_id]
        return state.kind in (Kind.PENDING, Kind.RUNNING) or (state.kind is Kind.UNKNOWN and not self._poller.answered)

    def outcome(self, token: str, job_id: str, tasks: int) -> Kind:
        """Return the outcome that the ranks recorded for a job that SLURM no longer lists."""
        return recorded_outcome(submission_folder(token), job_id, tasks)

    def cancel(self, ids: Collection[str]) -> None:
        """Cancel jobs."""
        ordered = sorted(ids)
        for first in range(0, len(ordered), _IDS_PER_SCANCEL):
            call = ["scancel", *ordered[first : first + _IDS_PER_SCANCEL]]
            subprocess.run(
                call, capture_output=True, timeout=_COMMAND_TIMEOUT_SECONDS, start_new_session=True, check=False
            )

    def remove_files(self, token: str, job_id: str) -> None:
        """Remove submitit's files for a successful job."""
        remove_files(submission_folder(token), job_id)

    def _script(self, folder: Path, request: Request, name: str, count: int) -> str:
        command = " ".join([shlex.quote(sys.executable), "-u -m submitit.core._submit", shlex.quote(str(folder))])
        text = _make_sbatch_string(
            command=command,
            folder=folder,
            map_count=count if count > 1 else None,
            array_parallelism=count,
            stderr_to_stdout=True,
            job_name=name,
            signal_delay_s=request.signal_delay_seconds(self._signal_delay_seconds),
            nodes=request.nodes,
            ntasks_per_node=request.tasks_per_node,
            cpus_per_task=request.cpus_per_task,
            mem=None if request.memory_mb is None else f"{request.memory_mb}M",
            mem_per_cpu=None if request.memory_mb_per_cpu is None else f"{request.memory_mb_per_cpu}M",
            time=request.minutes or 1,
            partition=request.partition,
            account=request.account,
            qos=request.qos,
            constraint=request.constraint,
            gres=request.gres,
            exclude=",".join(request.exclude) or None,
            additional_parameters=self._additional_parameters(request),
            # --kill-on-bad-exit ends the other ranks when one fails. Since SLURM 22.05, srun does not inherit
            # --cpus-per-task from sbatch.
            srun_args=["--kill-on-bad-exit=1", f"--cpus-per-task={request.cpus_per_task}"],
        )
        unwanted = ["#SBATCH --wckey="] + ([] if request.minutes else ["#SBATCH --time="])
        return "\n".join(line for line in text.split("\n") if not line.startswith(tuple(unwanted)))

    def _additional_parameters(self, request: Request) -> dict[str, object]:
        parameters: dict[str, object] = {"requeue": True}
        if request.reservation:
            parameters["reservation"] = request.reservation
        if request.gpus_per_node:
            model = f"{request.gpu_model}:" if request.gpu_model else ""
            parameters["gpus-per-node"] = f"{model}{request.gpus_per_node}"
        return parameters


def sbatch(arguments: Sequence[str]) -> str:
    """Submit a job script and return the job id.

    sbatch runs in a separate session. Otherwise, Ctrl-C in the terminal could kill it after the controller has accepted
    the job and before the job id is read. If the workflow process itself runs in a SLURM job, that job's variables are
    removed from the environment.

    Raises:
        SubmissionRefused: sbatch failed. The message is sbatch's error message.
    """
    kept = ("SLURM_CONF", "SLURM_JWT", "SLURM_CLUSTERS")
    environment = {name: v for name, v in os.environ.items() if not name.startswith("SLURM_") or name in kept}
    message = ""
    for attempt in range(_TRIES):
        try:
            done = subprocess.run(
                ["sbatch", "--parsable", *arguments],
                capture_output=True,
                text=True,
                env=environment,
                timeout=_COMMAND_TIMEOUT_SECONDS,
                start_new_session=True,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SubmissionRefused(str(error)) from None
        if done.returncode == 0 and (found := re.search(r"^(\d+)(;|$)", done.stdout, re.MULTILINE)):
            return found[1]
        message = (done.stderr.strip() or done.stdout.strip()).replace("sbatch: error: ", "")
        if not any(words in message for words in _TRANSIENT_ERRORS):
            break
        time.sleep(2**attempt)
    raise SubmissionRefused(" ".join(message.split()) or "sbatch failed without a message")


def recorded_outcome(folder: Path, job_id: str, tasks: int) -> Kind:
    """Return FAILED if any rank recorded a failure, else GONE if any rank recorded no result, else DONE."""
    kinds = set()
    for rank in range(tasks):
        path = JobPaths(folder, job_id, rank).result_pickle
        if not path.exists():
            kinds.add(Kind.GONE)
            continue
        outcome, _ = pickle.loads(path.read_bytes())
        kinds.add(Kind.DONE if outcome == "success" else Kind.FAILED)
    for kind in (Kind.FAILED, Kind.GONE):
        if kind in kinds:
            return kind
    return Kind.DONE


def remove_files(folder: Path, job_id: str) -> None:
    """Remove the files of one job, and remove the folder if no other job uses it."""
    for path in folder.glob(f"{job_id}_*"):
        path.unlink(missing_ok=True)
    left = {path.name for path in folder.iterdir()} if folder.is_dir() else {""}
    if left <= {"job.sh", "controller.txt"}:
        shutil.rmtree(folder, ignore_errors=True)
