"""Submit jobs to SLURM with submitit's job scripts and pickles, using one sbatch call per job array."""

from __future__ import annotations

import pickle
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path

import psutil
from submitit.core.utils import DelayedSubmission, JobPaths
from submitit.slurm.slurm import _make_sbatch_string

from snakemake_executor_plugin_submitit import bundles, queries
from snakemake_executor_plugin_submitit.paths import submission_folder
from snakemake_executor_plugin_submitit.poller import StatePoller
from snakemake_executor_plugin_submitit.resources import Request
from snakemake_executor_plugin_submitit.sbatch import COMMAND_TIMEOUT_SECONDS, is_transient, sbatch
from snakemake_executor_plugin_submitit.slurm_environment import client_environment, submission_environment
from snakemake_executor_plugin_submitit.states import Kind, State
from snakemake_executor_plugin_submitit.work import Bundle, Work

_TRIES = 3
_IDS_PER_SCANCEL = 400
_SUBMITTED = "_submitted.pkl"
_JOB_ID = "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
RANK_OPTIONS = "-u -P -m snakemake_executor_plugin_submitit.start"
"""Options with which Python starts a rank. With -P, Python imports no modules from the working folder."""
_IGNORING_SIGNALS = """sh -c 'trap "" TERM USR2; exec "$0" "$@"'"""
"""Start of a command that ignores signals until it installs handlers. They would end a rank that is starting."""
_CONFIGURATION_RETRY_SECONDS = 300
_INDEX = "${SLURM_ARRAY_TASK_ID:-0}"


class Slurm:
    """The SLURM cluster to which the `sbatch` command on PATH submits."""

    name = "slurm"
    outlives_workflow_process = True

    def __init__(self, warn: Callable[[str], None], *, signal_delay_seconds: int) -> None:
        self._warn = warn
        self._poller = StatePoller(warn)
        self._signal_delay_seconds = signal_delay_seconds
        self._configuration: dict[str, str] = {}
        self._configuration_retry_at = 0.0

    # site

    def site_name(self) -> str:
        """Return the name of the SLURM cluster, or an empty string if the controller does not respond."""
        return self._site_configuration().get("ClusterName", "")

    def largest_array(self) -> int | None:
        """Return the maximum number of jobs in an array, or None if the controller does not respond."""
        size = self._site_configuration().get("MaxArraySize", "")
        return max(1, int(size)) if size.isdigit() else None

    def _site_configuration(self) -> dict[str, str]:
        if not self._configuration and time.monotonic() >= self._configuration_retry_at:
            try:
                self._configuration = queries.configuration()
            except queries.QueryFailed:
                self._configuration_retry_at = time.monotonic() + _CONFIGURATION_RETRY_SECONDS
        return self._configuration

    # submission

    def store(self, work: Work | Bundle, token: str, index: int) -> None:
        """Write the description of a job or of a bundle that `submit` will submit.

        Raises:
            OSError: The file cannot be written.
        """
        folder = submission_folder(token)
        folder.mkdir(parents=True, exist_ok=True)
        delayed = DelayedSubmission(work)
        delayed.set_timeout(work.minutes or 0, 0)
        delayed.dump(folder / f"{index}.pkl")

    def submit(self, token: str, count: int, request: Request, name: str) -> list[str]:
        """Submit stored jobs with equal requests and return their ids. Several jobs are submitted as one array.

        Raises:
            SubmissionRefused: sbatch rejected the jobs.
            OSError: The job script cannot be written.
        """
        folder = submission_folder(token)
        path = folder / "job.sh"
        script = self._script(folder, request, name, count)
        path.write_text(script)
        environment = submission_environment(script, request.extra)
        comment = [] if _has_comment(request, environment) else [f"--comment={token}"]
        number = sbatch(
            [*request.extra, *comment, "--export=ALL", str(path)], environment, lambda: self.submitted_number(token)
        )
        return [bundles.job_id(number, index, count, bundle=1) for index in range(count)]

    def submitted_number(self, token: str) -> str | None:
        """Return the number that sbatch returned for a submission, or None if SLURM did not accept it.

        Raises:
            QueryFailed: No job of the submission has started, and the controller does not respond.
        """
        for path in submission_folder(token).glob(f"*{_SUBMITTED}"):
            return path.name.removesuffix(_SUBMITTED).split("_")[0]
        return queries.submitted_number(token)

    def wait_for_sbatch(self, token: str) -> None:
        """Wait for the sbatch process of a killed workflow process, which may still submit jobs."""
        deadline = time.monotonic() + COMMAND_TIMEOUT_SECONDS
        script = str(submission_folder(token) / "job.sh")
        while time.monotonic() < deadline and any(
            script in (process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])
        ):
            time.sleep(0.5)

    def _script(self, folder: Path, request: Request, name: str, count: int) -> str:
        command = " ".join([_IGNORING_SIGNALS, shlex.quote(sys.executable), RANK_OPTIONS, shlex.quote(str(folder))])
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
            # The job names its pickle itself, so that it can start even if the workflow process is killed.
            setup=[f'ln -sf "{_INDEX}.pkl" {shlex.quote(str(folder))}/"{_JOB_ID}{_SUBMITTED}"'],
            # --kill-on-bad-exit ends the other ranks when one fails. Since SLURM 22.05, srun does not inherit
            # --cpus-per-task from sbatch.
            srun_args=["--kill-on-bad-exit=1", f"--cpus-per-task={request.cpus_per_task}", "--export=ALL"],
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

    # queries

    def poll(self, ids: Collection[str]) -> dict[str, State]:
        """Return the states of jobs with a single query."""
        states = self._poller.poll({bundles.cluster_id(job_id) for job_id in ids})
        return {job_id: states[bundles.cluster_id(job_id)] for job_id in ids}

    def listed_jobs(self, ids: Collection[str]) -> dict[str, queries.ListedJob]:
        """Return those jobs that the controller lists.

        Raises:
            QueryFailed: The controller does not respond.
        """
        listed = queries.listed_jobs({bundles.cluster_id(job_id) for job_id in ids})
        return {job_id: found for job_id in ids if (found := listed.get(bundles.cluster_id(job_id)))}

    def is_active(self, job_id: str) -> bool:
        """Return whether a job is still queued or running. Return True if the controller does not respond."""
        try:
            listed = self.listed_jobs([job_id]).get(job_id)
        except queries.QueryFailed:
            return True
        return listed is not None and listed.state.kind in (Kind.PENDING, Kind.RUNNING)

    def outcome(self, token: str, job_id: str, tasks: int) -> Kind:
        """Return the outcome that the ranks recorded for a job that SLURM no longer lists."""
        if bundles.is_bundled(job_id):
            return bundles.recorded_outcome(bundles.folder_of(token, job_id))
        return recorded_outcome(submission_folder(token), job_id, tasks)

    # end

    def cancel(self, ids: Collection[str]) -> None:
        """Cancel jobs. Print a warning if SLURM does not respond."""
        ordered = sorted({bundles.cluster_id(job_id) for job_id in ids})
        for first in range(0, len(ordered), _IDS_PER_SCANCEL):
            part = ordered[first : first + _IDS_PER_SCANCEL]
            if error := _scancel(part):
                self._warn(f"Cannot cancel {len(part)} SLURM jobs: {error}. Cancel them with: scancel {' '.join(part)}")

    def remove_files(self, token: str, job_id: str, index: int) -> None:
        """Remove submitit's files for a successful job. Files of bundles are removed with the last job."""
        if bundles.is_bundled(job_id):
            if not bundles.others_exist(token, job_id):
                shutil.rmtree(submission_folder(token), ignore_errors=True)
            return
        (submission_folder(token) / f"{index}.pkl").unlink(missing_ok=True)
        remove_files(submission_folder(token), job_id)


def _has_comment(request: Request, environment: dict[str, str]) -> bool:
    return "SBATCH_COMMENT" in environment or any(word.startswith("--comment") for word in request.extra)


def _scancel(ids: list[str]) -> str:
    """Cancel jobs, and return the error message if SLURM does not respond. Jobs that have ended are not an error."""
    message = ""
    for attempt in range(_TRIES):
        try:
            done = subprocess.run(
                ["scancel", *ids],
                capture_output=True,
                text=True,
                timeout=COMMAND_TIMEOUT_SECONDS,
                env=client_environment(),
                start_new_session=True,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            message = str(error)
        else:
            message = " ".join(done.stderr.split())
            if done.returncode == 0 or not is_transient(message):
                return ""
        time.sleep(2**attempt)
    return message


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
