"""Checks by jobs: one that is signalled and requeued, and one of several nodes that meet."""

from __future__ import annotations

import json
import random
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cluster.doctor.findings import Finding, fail, ok, warn
from cluster.doctor.jobs import JobFault, TestJob, submitted
from cluster.doctor.probe import QUESTION
from cluster.doctor.site import Site, ask, fields

_SIGNAL_SECONDS = 30.0
_REQUEUE_SECONDS = 60.0
_SLOW_SECONDS = 30.0
_PORTS = (20000, 29999)
"""Where the executor plugin's ranks meet (`--submitit-ports`)."""
_NOT_STARTED = "see `squeue --me --start`; give the doctor more --wait, or another --partition or --qos"


def requeue(site: Site) -> Iterator[Finding]:
    """A job starts, a signal reaches its step, and it may be requeued."""
    try:
        with submitted(site, "requeue", _waiting_script, "--requeue", "--signal=USR2@60") as job:
            waited = job.wait_for_file("ready", site.wait_seconds)
            yield ok("job", f"job {job.number} started after {waited:.0f} s")
            yield _signal(job)
            yield _requeue(job)
    except JobFault as fault:
        yield fail("job", str(fault), _NOT_STARTED)


def _waiting_script(folder: Path) -> str:
    place = shlex.quote(str(folder))
    step = f"trap 'touch {place}/signal' USR2; touch {place}/ready; while :; do sleep 0.5; done"
    return f"trap '' USR2\nsrun --ntasks=1 bash -c {shlex.quote(step)}"


def _signal(job: TestJob) -> Finding:
    answer = ask("scancel", "--signal=USR2", job.number)
    try:
        if not answer.good:
            raise JobFault(f"scancel --signal fails: {answer.complaint}")
        seconds = job.wait_for_file("signal", _SIGNAL_SECONDS)
    except JobFault as fault:
        return fail(
            "signal",
            f"USR2 does not reach the job: {fault}",
            "trainings are not told to save before their time limit: ask the site's support how steps are signalled",
        )
    return ok("signal", f"USR2 reached the job's step in {seconds:.0f} s")


def _requeue(job: TestJob) -> Finding:
    answer = ask("scontrol", "requeue", job.number)
    advice = (
        "preempted and timed-out jobs are then submitted anew by the head, which must be alive; "
        "docs/how-to/clusters/no-requeue.md"
    )
    if not answer.good:
        return warn("requeue", f"refused: {answer.complaint}", advice)
    began = time.monotonic()
    while time.monotonic() - began < _REQUEUE_SECONDS:
        shown = fields(ask("scontrol", "show", "job", "--oneliner", job.number).output)
        if shown.get("Restarts", "0") != "0":
            return ok("requeue", f"a running job went back into the queue in {time.monotonic() - began:.0f} s")
        time.sleep(0.5)
    return warn("requeue", f"job {job.number} did not go back into the queue in {_REQUEUE_SECONDS:.0f} s", advice)


def meeting(site: Site) -> Iterator[Finding]:
    """Processes on several nodes see the shared folder, each other, and their GPUs."""
    question = f"doctor {time.time()}"

    def script(folder: Path) -> str:
        (folder / QUESTION).write_text(question)
        return _probe_script(folder)

    options = [f"--nodes={site.nodes}", "--ntasks-per-node=1"]
    if site.gpus_per_node:
        options.append(f"--gpus-per-node={site.gpus_per_node}")
    try:
        with submitted(site, "nodes", script, *options) as job:
            job.wait_for_file("rank0.json", site.wait_seconds)
            job.wait_for_end(site.wait_seconds)
            began = time.monotonic()
            for rank in range(site.nodes):
                job.wait_for_file(f"rank{rank}.json", _SLOW_SECONDS)
            delay = time.monotonic() - began
            seen = [json.loads((job.folder / f"rank{rank}.json").read_text()) for rank in range(site.nodes)]
    except JobFault as fault:
        yield fail(
            "nodes",
            f"the job of {site.nodes} nodes: {fault}",
            f"if it did not start, {_NOT_STARTED}; if Python or the module is missing there, put the environment "
            "and the project on a file system that nodes share",
        )
        return
    yield ok("nodes", f"job {job.number} ran on {', '.join(each['node'] for each in seen)}")
    yield _shared_folder(site, seen, question, delay)
    yield _rendezvous(seen)
    yield from _gpus(site, seen)


def _probe_script(folder: Path) -> str:
    project = Path(__file__).parents[2]
    return "\n".join(
        [
            f"export PYTHONPATH={shlex.quote(str(project))}${{PYTHONPATH:+:$PYTHONPATH}}",
            'export DOCTOR_ADDRESS=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
            f"export DOCTOR_PORT={random.randint(*_PORTS)}",
            f"srun {shlex.quote(sys.executable)} -m cluster.doctor.probe {shlex.quote(str(folder))}",
        ]
    )


def _shared_folder(site: Site, seen: Sequence[dict[str, Any]], question: str, delay: float) -> Finding:
    for each in seen:
        answer = each["question"]
        if "error" in answer or answer["text"] != question:
            return fail(
                "folder",
                f"{each['node']} does not see what was written here: {answer.get('error', 'another text')}",
                "start in a folder of a file system that nodes share: --folder, --directory",
            )
    slowest = max(delay, *(each["question"]["seconds"] for each in seen))
    if slowest > _SLOW_SECONDS / 2:
        return warn(
            "folder", f"{site.folder} is shared, but a file takes {slowest:.0f} s to be seen", "raise `latency-wait`"
        )
    return ok("folder", f"{site.folder} is shared; a file was seen on the other side within {slowest:.0f} s")


def _rendezvous(seen: Sequence[dict[str, Any]]) -> Finding:
    for each in seen:
        met = each["meeting"]
        if "error" in met:
            return fail(
                "rendezvous",
                f"{each['node']}: {met['error']}",
                "node names must resolve on the nodes, and ports 20000-29999 be open between them "
                "(other ones: --submitit-ports FIRST-LAST); with a wrong interface set GLOO_SOCKET_IFNAME",
            )
    met = seen[0]["meeting"]
    return ok("rendezvous", f"{len(seen)} ranks met at {met['address']} ({met['resolved']}), port {met['port']}")


def _gpus(site: Site, seen: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    if not site.gpus_per_node:
        return
    for each in seen:
        gpus = each["gpus"]
        if "error" in gpus or gpus["count"] != site.gpus_per_node:
            found = gpus.get("error") or f"torch {gpus['torch']} (CUDA {gpus['cuda']}) sees {gpus['count']}"
            yield fail(
                "gpus",
                f"{each['node']}: asked for {site.gpus_per_node} GPUs; {found}",
                "check the node's driver (nvidia-smi) against torch's CUDA version, and how the site names GPUs: "
                "docs/how-to/clusters/gpus.md",
            )
            return
    yield ok("gpus", f"torch {seen[0]['gpus']['torch']} computes on {', '.join(seen[0]['gpus']['names'])} on each node")
