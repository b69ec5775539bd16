"""Run jobs as processes on this machine with submitit's local controller, as cores and GPUs become free."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from submitit.core.utils import DelayedSubmission, JobPaths

from snakemake_executor_plugin_submitit.paths import submission_folder
from snakemake_executor_plugin_submitit.resources import Request, ResourceError
from snakemake_executor_plugin_submitit.slurm import RANK_OPTIONS, recorded_outcome, remove_files
from snakemake_executor_plugin_submitit.states import NOT_STARTED, Kind, State
from snakemake_executor_plugin_submitit.work import HeadProcess, Work

_NO_TIMEOUT_SECONDS = 10 * 365 * 86400
_CANCEL_SECONDS = 40


@dataclass
class _Job:
    work: Work
    request: Request
    folder: Path
    process: subprocess.Popen | None = None
    devices: tuple[str, ...] = ()
    cancelled: bool = False
    error: str = ""
    """Error message if the job could not be started."""


class Local:
    """A small batch system that starts jobs on this machine in the order of their submission."""

    name = "local"
    outlives_workflow_process = False

    def __init__(self, *, ranks: str) -> None:
        self._one_rank_per_gpu = ranks == "gpus"
        self._devices = visible_devices()
        self._cores = len(os.sched_getaffinity(0))
        self._jobs: dict[str, _Job] = {}
        self._stored: dict[str, list[Work]] = {}
        self._count = 0
        self._workflow_process = HeadProcess(os.getpid(), psutil.Process().create_time())

    def collapse(self, request: Request) -> Request:
        """Convert the request to a single node: this machine with its visible GPUs.

        Raises:
            ResourceError: The job requests more GPUs than are visible on this machine.
        """
        if self._one_rank_per_gpu and (request.gpus_per_node or request.tasks > 1):
            gpus = len(self._devices)
            return replace(request, nodes=1, tasks_per_node=max(1, gpus), gpus_per_node=gpus, bundle=1)
        gpus = request.nodes * request.gpus_per_node
        if gpus > len(self._devices):
            raise ResourceError(
                f"the job requests {gpus} GPUs, more than the {len(self._devices)} visible on this machine. "
                "Request fewer GPUs, or use --submitit-local-ranks gpus to start one rank per visible GPU"
            )
        return replace(request, nodes=1, tasks_per_node=request.tasks, gpus_per_node=gpus, bundle=1)

    def store(self, work: Work, token: str, index: int) -> None:
        """Keep a job that `submit` will queue."""
        self._stored.setdefault(token, []).append(work)

    def submit(self, token: str, count: int, request: Request, name: str) -> list[str]:
        """Queue stored jobs and return their ids.

        Raises:
            OSError: The folder for the jobs' files cannot be created.
        """
        folder = submission_folder(token)
        folder.mkdir(parents=True, exist_ok=True)
        ids = []
        for work in self._stored.pop(token):
            self._count += 1
            job_id = f"L{self._count}"
            self._jobs[job_id] = _Job(replace(work, head=self._workflow_process), request, folder)
            ids.append(job_id)
        self._start_waiting_jobs()
        return ids

    def poll(self, ids: Collection[str]) -> dict[str, State]:
        """Return the states of jobs."""
        self._start_waiting_jobs()
        return {job_id: self._state(job_id) for job_id in ids}

    def outcome(self, token: str, job_id: str, tasks: int) -> Kind:
        """Return the outcome that a job's ranks recorded."""
        return self._state(job_id).kind

    def cancel(self, ids: Collection[str]) -> None:
        """Stop jobs, after giving their programs time to save."""
        running = []
        for job_id in ids:
            job = self._jobs[job_id]
            job.cancelled = True
            if job.process is not None and job.process.poll() is None:
                job.process.send_signal(signal.SIGTERM)  # the controller forwards it to the ranks
                running.append(job.process)
        deadline = time.monotonic() + _CANCEL_SECONDS
        while any(process.poll() is None for process in running) and time.monotonic() < deadline:
            time.sleep(0.05)
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def remove_files(self, token: str, job_id: str, index: int) -> None:
        """Remove submitit's files for a successful job."""
        job = self._jobs.pop(job_id)
        assert job.process is not None
        remove_files(job.folder, str(job.process.pid))

    def _state(self, job_id: str) -> State:
        job = self._jobs[job_id]
        if job.error:
            return State(Kind.FAILED, NOT_STARTED, reason=job.error)
        if job.process is None:
            return State(Kind.FAILED, "CANCELLED") if job.cancelled else State(Kind.PENDING, "PENDING")
        if job.process.poll() is None:
            return State(Kind.RUNNING, "RUNNING")
        kind = recorded_outcome(job.folder, str(job.process.pid), job.request.tasks)
        return State(Kind.DONE, "COMPLETED") if kind is Kind.DONE else State(Kind.FAILED, "FAILED")

    def _start_waiting_jobs(self) -> None:
        """Start waiting jobs in order until one does not fit. A job that needs more cores than exist runs alone."""
        running = [job for job in self._jobs.values() if job.process is not None and job.process.poll() is None]
        used_cores = sum(_cores(job.request) for job in running)
        used_devices = {device for job in running for device in job.devices}
        for job in self._jobs.values():
            if job.process is not None or job.cancelled or job.error:
                continue
            free = [device for device in self._devices if device not in used_devices]
            enough_cores = not running or used_cores + _cores(job.request) <= self._cores
            if len(free) < job.request.gpus_per_node or not enough_cores:
                return
            job.devices = tuple(free[: job.request.gpus_per_node])
            try:
                self._start(job)
            except OSError as error:
                job.error = str(error)
                if job.process is not None:
                    os.killpg(job.process.pid, signal.SIGKILL)
                continue
            running.append(job)
            used_cores += _cores(job.request)
            used_devices |= set(job.devices)

    def _start(self, job: _Job) -> None:
        """Start submitit's controller in a new session, so that Ctrl-C reaches only the workflow process."""
        command = f"{shlex.quote(sys.executable)} {RANK_OPTIONS} {shlex.quote(str(job.folder))}"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        environment |= {
            "SUBMITIT_EXECUTOR": "local",
            "SUBMITIT_LOCAL_NTASKS": str(job.request.tasks),
            "SUBMITIT_LOCAL_COMMAND": command,
            "SUBMITIT_LOCAL_TIMEOUT_S": str(_NO_TIMEOUT_SECONDS),
            "SUBMITIT_LOCAL_SIGNAL_DELAY_S": "0",
            "SUBMITIT_LOCAL_NODEID": "0",
            "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
            "SUBMITIT_STDERR_TO_STDOUT": "1",
            "SUBMITIT_LOCAL_WITH_SHELL": "",
        }
        work = replace(job.work, devices=job.devices if self._devices else None)
        with open(job.folder / "controller.txt", "ab") as log:
            job.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "submitit.local._local", str(job.folder)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        partial = job.folder / f"{job.process.pid}.pkl"
        delayed = DelayedSubmission(work)
        delayed.set_timeout(0, 0)
        delayed.dump(partial)
        partial.rename(JobPaths(job.folder, str(job.process.pid)).submitted_pickle)


def _cores(request: Request) -> int:
    return request.tasks * request.cpus_per_task


def visible_devices() -> tuple[str, ...]:
    """Return the CUDA devices that this process may use, in the format of CUDA_VISIBLE_DEVICES."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return tuple(part.strip() for part in named.split(",") if part.strip() and part.strip() != "-1")
    if shutil.which("nvidia-smi") is None:
        return ()
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=60, check=False)
    return tuple(str(index) for index, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU "))
