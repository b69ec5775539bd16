"""Jobs on SLURM: submitit's script and pickles, one sbatch for an array of like jobs."""

from __future__ import annotations

import os
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
from snakemake_executor_plugin_submitit.states import Kind, State, Watch
from snakemake_executor_plugin_submitit.work import Work

_SBATCH_SECONDS = 180
_TRANSIENT = ("Unable to contact slurm controller", "Socket timed out", "Connection refused", "temporarily")
_TRIES = 3
_IDS_A_CALL = 400


class SubmissionRefused(Exception):
    """sbatch did not take a job; the text is its own."""


class Slurm:
    """The cluster that sbatch on PATH submits to."""

    name = "slurm"
    outlives_head = True

    def __init__(self, say: Callable[[str], None], *, signal_delay_seconds: int) -> None:
        self._watch = Watch(say)
        self._signal_delay_seconds = signal_delay_seconds

    def submit(self, works: Sequence[Work], request: Request, token: str, name: str) -> list[str]:
        """Submit jobs with one request, several as an array; their ids.

        Raises:
            SubmissionRefused: None of them was taken.
        """
        folder = submission_folder(token)
        folder.mkdir(parents=True, exist_ok=True)
        pickles = [folder / f"{index}.pkl" for index in range(len(works))]
        for work, pickle in zip(works, pickles, strict=True):
            delayed = DelayedSubmission(work)
            delayed.set_timeout(request.minutes or 0, 0)
            delayed.dump(pickle)
        script = folder / "job.sh"
        script.write_text(self._script(folder, request, name, len(works)))
        number = sbatch([*request.extra, str(script)])
        ids = [number] if len(works) == 1 else [f"{number}_{index}" for index in range(len(works))]
        for job_id, pickle in zip(ids, pickles, strict=True):
            pickle.rename(JobPaths(folder, job_id).submitted_pickle)
        return ids

    def poll(self, ids: Collection[str]) -> dict[str, State]:
        """The states of jobs, from one query."""
        return self._watch.poll(set(ids))

    def has(self, job_id: str) -> bool:
        """Whether the controller still runs or queues a job, or does not say."""
        state = self._watch.poll({job_id}, controller=True)[job_id]
        return state.kind in (Kind.PENDING, Kind.RUNNING) or (state.kind is Kind.UNSURE and not self._watch.answered)

    def outcome(self, token: str, job_id: str, tasks: int) -> Kind:
        """What the ranks themselves recorded, for a job that SLURM has forgotten."""
        return recorded(submission_folder(token), job_id, tasks)

    def cancel(self, ids: Collection[str]) -> None:
        """Cancel jobs."""
        ordered = sorted(ids)
        for first in range(0, len(ordered), _IDS_A_CALL):
            call = ["scancel", *ordered[first : first + _IDS_A_CALL]]
            subprocess.run(call, capture_output=True, timeout=_SBATCH_SECONDS, start_new_session=True, check=False)

    def forget(self, token: str, job_id: str) -> None:
        """Remove submitit's files of a job that succeeded."""
        forget(submission_folder(token), job_id)

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
            additional_parameters=self._more(request),
            # srun does not inherit the cores since 22.05; a dead rank ends the others.
            srun_args=["--kill-on-bad-exit=1", f"--cpus-per-task={request.cpus_per_task}"],
        )
        unwanted = ["#SBATCH --wckey="] + ([] if request.minutes else ["#SBATCH --time="])
        return "\n".join(line for line in text.split("\n") if not line.startswith(tuple(unwanted)))

    def _more(self, request: Request) -> dict[str, object]:
        more: dict[str, object] = {"requeue": True}
        if request.reservation:
            more["reservation"] = request.reservation
        if request.gpus_per_node:
            model = f"{request.gpu_model}:" if request.gpu_model else ""
            more["gpus-per-node"] = f"{model}{request.gpus_per_node}"
        return more


def sbatch(arguments: Sequence[str]) -> str:
    """Submit; the job's number.

    The call has a session of its own, so that Ctrl-C in the terminal does not kill it between the controller's yes and
    ours. A head that runs in a job itself must not hand that job's variables on.

    Raises:
        SubmissionRefused: With what sbatch said.
    """
    kept = ("SLURM_CONF", "SLURM_JWT", "SLURM_CLUSTERS")
    environment = {name: v for name, v in os.environ.items() if not name.startswith("SLURM_") or name in kept}
    said = ""
    for attempt in range(_TRIES):
        try:
            done = subprocess.run(
                ["sbatch", "--parsable", *arguments],
                capture_output=True,
                text=True,
                env=environment,
                timeout=_SBATCH_SECONDS,
                start_new_session=True,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SubmissionRefused(str(error)) from None
        if done.returncode == 0 and (found := re.search(r"^(\d+)(;|$)", done.stdout, re.MULTILINE)):
            return found[1]
        said = (done.stderr.strip() or done.stdout.strip()).replace("sbatch: error: ", "")
        if not any(words in said for words in _TRANSIENT):
            break
        time.sleep(2**attempt)
    raise SubmissionRefused(" ".join(said.split()) or "sbatch failed without a word")


def recorded(folder: Path, job_id: str, tasks: int) -> Kind:
    """Whether all ranks of a job left a good result, any a bad one, or some none."""
    import pickle

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


def forget(folder: Path, job_id: str) -> None:
    """Remove the files of one job, and the folder after its last one."""
    for path in folder.glob(f"{job_id}_*"):
        path.unlink(missing_ok=True)
    left = {path.name for path in folder.iterdir()} if folder.is_dir() else {""}
    if left <= {"job.sh", "controller.txt"}:
        shutil.rmtree(folder, ignore_errors=True)
