"""Run SLURM's query commands and parse their output."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from submitit.slurm.slurm import read_job_id

from snakemake_executor_plugin_submitit.slurm_environment import client_environment
from snakemake_executor_plugin_submitit.states import Kind, State, kind_of

_TIMEOUT_SECONDS = 60
_CONFIGURATION_SECONDS = 10
_JOB_ID = r"\d+(?:_\d+|_\[[\d,%-]+\])?"
"""Job id in the first column: `7`, `7_3`, or an array such as `7_[0-3,6%2]`."""


class QueryFailed(Exception):
    """A query command failed or timed out."""


def run_query(command: list[str], seconds: float = _TIMEOUT_SECONDS) -> str:
    """Run a query command and return its output.

    Raises:
        QueryFailed: The command failed or timed out. The message contains the command's error output.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, env=client_environment(), check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise QueryFailed(f"{command[0]}: {error}") from None
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise QueryFailed(f"{command[0]}: {lines[0] if lines else f'exit status {done.returncode}'}")
    return done.stdout


def from_sacct(ids: Iterable[str]) -> dict[str, State]:
    """Return job states from the accounting database.

    Raises:
        QueryFailed: Accounting is disabled or does not respond.
    """
    return read_sacct(
        run_query(["sacct", "--noheader", "--parsable2", "--format=JobID,State,NodeList", f"--jobs={_job_list(ids)}"])
    )


def read_sacct(text: str) -> dict[str, State]:
    """Parse the output of sacct, which contains one line per job and one line per step. Skip all other lines."""
    found: dict[str, State] = {}
    out_of_memory: set[str] = set()
    for job_id, state, nodes in _rows(text, rf"({_JOB_ID}(?:\.\w+)?)\|([A-Z_]+)[^|]*\|([^|]*)"):
        job, _, step = job_id.partition(".")
        if step:
            if state == "OUT_OF_MEMORY":
                out_of_memory.add(job)
            continue
        found |= dict.fromkeys(_job_ids(job), State(kind_of(state, final=False), state, nodes))
    for job in out_of_memory & found.keys():
        if found[job].kind is Kind.FAILED:  # a job does not always have the state of its failed step
            found[job] = State(Kind.FAILED, "OUT_OF_MEMORY", found[job].nodes)
    return found


def from_squeue(ids: Iterable[str]) -> dict[str, State]:
    """Return job states from the controller. Some minutes after the end of a job, the controller no longer lists it.

    Raises:
        QueryFailed: The controller does not respond.
    """
    return read_squeue(_squeue(ids, "%i|%T|%N|%r"))


def read_squeue(text: str) -> dict[str, State]:
    """Parse the output of squeue, which contains one line per job or array element. Skip all other lines."""
    found: dict[str, State] = {}
    for job_id, name, nodes, reason in _rows(text, rf"({_JOB_ID})\|([A-Z_]+)\|([^|]*)\|?(.*)"):
        found |= dict.fromkeys(_job_ids(job_id), State(kind_of(name, final=True), name, nodes, reason))
    return found


@dataclass(frozen=True)
class ListedJob:
    """A job that the controller lists, with the texts that identify its submission."""

    state: State
    origin: str
    """The job's comment and the path of its script. For jobs of this plugin, it contains the submission's token."""


def listed_jobs(ids: Iterable[str]) -> dict[str, ListedJob]:
    """Return the jobs with the given ids that the controller lists.

    Raises:
        QueryFailed: The controller does not respond.
    """
    found: dict[str, ListedJob] = {}
    text = _squeue(ids, "%i|%T|%N|%k|%o")
    for job_id, name, nodes, origin in _rows(text, rf"({_JOB_ID})\|([A-Z_]+)\|([^|]*)\|(.*)"):
        listed = ListedJob(State(kind_of(name, final=True), name, nodes), origin)
        found |= dict.fromkeys(_job_ids(job_id), listed)
    return found


def submitted_number(token: str) -> str | None:
    """Return the number of the job or array that was submitted with a token, or None if the controller lists none.

    Raises:
        QueryFailed: The controller does not respond.
    """
    command = ["squeue", "--noheader", "--states=all", f"--user={os.getuid()}", "--format=%F|%k|%o"]
    for number, origin in _rows(run_query(command), r"(\d+)\|(.*)"):
        if token in origin:
            return number
    return None


def configuration() -> dict[str, str]:
    """Return the settings of the SLURM cluster by name.

    Raises:
        QueryFailed: The controller does not respond.
    """
    rows = _rows(run_query(["scontrol", "show", "config"], _CONFIGURATION_SECONDS), r"(\w+)\s*= (.*)")
    return {name: value for name, value in rows}


def _squeue(ids: Iterable[str], columns: str) -> str:
    command = ["squeue", "--noheader", "--array", "--states=all", f"--format={columns}", f"--jobs={_job_list(ids)}"]
    try:
        return run_query(command)
    except QueryFailed as failed:
        if "Invalid job id" in str(failed):
            return ""
        raise


def _rows(text: str, pattern: str) -> Iterator[tuple[str, ...]]:
    """Yield the groups of each line that matches a pattern. Other lines, such as a site's notices, are no rows."""
    for line in text.splitlines():
        if match := re.fullmatch(pattern, line.strip()):
            yield match.groups()


def _job_list(ids: Iterable[str]) -> str:
    """Return the ids as a comma-separated list in which each array appears once."""
    return ",".join(sorted({job_id.split("_")[0] for job_id in ids}))


def _job_ids(job_id: str) -> list[str]:
    """Expand a job id to the ids of single jobs."""
    found: list[str] = []
    for parts in read_job_id(job_id):
        if len(parts) == 1:
            found.append(parts[0])
        else:
            found += [f"{parts[0]}_{n}" for n in range(int(parts[1]), int(parts[-1]) + 1)]
    return found
