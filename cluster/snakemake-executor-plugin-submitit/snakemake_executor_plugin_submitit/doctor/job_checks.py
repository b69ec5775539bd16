"""Checks with two test jobs: one is signalled and requeued, the other connects processes on several nodes."""

from __future__ import annotations

import json
import random
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from snakemake_executor_plugin_submitit.doctor.check_results import CheckResult, fail, ok, warn
from snakemake_executor_plugin_submitit.doctor.jobs import TestJob, TestJobError, submitted
from snakemake_executor_plugin_submitit.doctor.probe import PROBE, TOKEN_FILE
from snakemake_executor_plugin_submitit.doctor.site import Site, parse_records, run_command

_SIGNAL_SECONDS = 30.0
_REQUEUE_SECONDS = 60.0
_VISIBLE_SECONDS = 30.0
"""Maximum time in seconds for a new file to appear on another machine."""
_PORTS = (20000, 29999)
"""Default of `--submitit-ports`."""
_NOT_STARTED_ADVICE = (
    "run `squeue --me --start` to see the expected start times; then run the doctor again with a longer --wait or a "
    "different --partition or --qos"
)


def check_requeue(site: Site) -> Iterator[CheckResult]:
    """Check that a job starts, that a signal reaches the job's step, and that SLURM can requeue the job."""
    try:
        with submitted(site, "requeue", _waiting_script, "--requeue", "--signal=USR2@60") as job:
            waited = job.wait_for_file("ready", site.wait_seconds)
            yield ok("job", f"job {job.job_id} started after {waited:.0f} s")
            yield _check_signal(job)
            yield _requeue(job)
    except TestJobError as error:
        yield fail("job", str(error), _NOT_STARTED_ADVICE)


def _waiting_script(folder: Path) -> str:
    quoted = shlex.quote(str(folder))
    step = f"trap 'touch {quoted}/signal' USR2; touch {quoted}/ready; while :; do sleep 0.5; done"
    return f"trap '' USR2\nsrun --ntasks=1 bash -c {shlex.quote(step)}"


def _check_signal(job: TestJob) -> CheckResult:
    result = run_command("scancel", "--signal=USR2", job.job_id)
    try:
        if not result.succeeded:
            raise TestJobError(f"`scancel --signal` failed: {result.error}")
        seconds = job.wait_for_file("signal", _SIGNAL_SECONDS)
    except TestJobError as error:
        return fail(
            "signal",
            f"USR2 did not reach the job's step: {error}",
            "ask the site's support how to signal job steps; without the signal, training cannot save a checkpoint "
            "before the time limit",
        )
    return ok("signal", f"USR2 reached the job's step within {seconds:.0f} s")


def _requeue(job: TestJob) -> CheckResult:
    result = run_command("scontrol", "requeue", job.job_id)
    advice = (
        "keep the workflow process running: it resubmits jobs that are preempted or reach their time limit; "
        "see docs/how-to/clusters/no-requeue.md"
    )
    if not result.succeeded:
        return warn("requeue", f"SLURM refused to requeue the job: {result.error}", advice)
    start = time.monotonic()
    while time.monotonic() - start < _REQUEUE_SECONDS:
        shown = run_command("scontrol", "show", "job", "--oneliner", job.job_id).output
        if any(record.get("Restarts", "0") != "0" for record in parse_records(shown, "JobId")):
            return ok("requeue", f"a running job returned to the queue within {time.monotonic() - start:.0f} s")
        time.sleep(0.5)
    return warn("requeue", f"job {job.job_id} did not return to the queue within {_REQUEUE_SECONDS:.0f} s", advice)


def check_nodes(site: Site) -> Iterator[CheckResult]:
    """Check that processes on several nodes can read the shared folder, connect to each other and use their GPUs."""
    token = f"doctor {time.time()}"

    def script(folder: Path) -> str:
        (folder / TOKEN_FILE).write_text(token)
        return _probe_script(folder)

    options = [f"--nodes={site.nodes}", "--ntasks-per-node=1"]
    if site.gpus_per_node:
        options.append(f"--gpus-per-node={site.gpus_per_node}")
    try:
        with submitted(site, "nodes", script, *options) as job:
            job.wait_for_file("rank0.json", site.wait_seconds)
            job.wait_for_end(site.wait_seconds)
            start = time.monotonic()
            for rank in range(site.nodes):
                job.wait_for_file(f"rank{rank}.json", _VISIBLE_SECONDS)
            delay = time.monotonic() - start
            reports = [json.loads((job.folder / f"rank{rank}.json").read_text()) for rank in range(site.nodes)]
    except TestJobError as error:
        yield fail(
            "nodes",
            f"the {site.nodes}-node test job did not finish: {error}",
            f"if it did not start, {_NOT_STARTED_ADVICE}; if it did not find Python or a module, install the "
            "environment and the project on a shared file system",
        )
        return
    yield ok("nodes", f"job {job.job_id} ran on {', '.join(each['node'] for each in reports)}")
    yield _check_shared_folder(site, reports, token, delay)
    yield _check_rendezvous(reports)
    yield from _check_gpus(site, reports)


def _probe_script(folder: Path) -> str:
    return "\n".join(
        [
            "export DOCTOR_ADDRESS=$SLURMD_NODENAME",  # the batch script runs on the first node, like rank 0
            f"export DOCTOR_PORT={random.randint(*_PORTS)}",
            f"srun {shlex.quote(sys.executable)} -P -m {PROBE} {shlex.quote(str(folder))}",
        ]
    )


def _check_shared_folder(site: Site, reports: Sequence[dict[str, Any]], token: str, delay: float) -> CheckResult:
    for each in reports:
        read = each["token"]
        if "error" in read or read["text"] != token:
            return fail(
                "folder",
                f"{each['node']} cannot read a file written on this machine: {read.get('error', 'wrong content')}",
                "work in a folder on a shared file system (snakemake --directory FOLDER), and run the doctor again "
                "with --folder FOLDER",
            )
    slowest = max(delay, *(each["token"]["seconds"] for each in reports))
    if slowest > _VISIBLE_SECONDS / 2:
        return warn(
            "folder",
            f"{site.folder} is shared, but a new file takes {slowest:.0f} s to appear on another machine",
            "increase `latency-wait` in slurm/config.yaml",
        )
    return ok("folder", f"{site.folder} is shared; a new file appears on another machine within {slowest:.0f} s")


def _check_rendezvous(reports: Sequence[dict[str, Any]]) -> CheckResult:
    for each in reports:
        rendezvous = each["rendezvous"]
        if "error" in rendezvous:
            return fail(
                "rendezvous",
                f"the ranks cannot connect; {each['node']} reports: {rendezvous['error']}",
                "make sure that node names resolve on the nodes and that ports 20000-29999 are open between them "
                "(to use different ports, set --submitit-ports FIRST-LAST); if gloo selects the wrong network "
                "interface, set GLOO_SOCKET_IFNAME",
            )
    first = reports[0]["rendezvous"]
    address = f"{first['address']} ({first['resolved']})"
    return ok("rendezvous", f"{len(reports)} ranks connected at {address}, port {first['port']}")


def _check_gpus(site: Site, reports: Sequence[dict[str, Any]]) -> Iterator[CheckResult]:
    if not site.gpus_per_node:
        return
    for each in reports:
        gpus = each["gpus"]
        if "error" in gpus or gpus["count"] != site.gpus_per_node:
            found = gpus.get("error") or f"torch {gpus['torch']} (CUDA {gpus['cuda']}) detects {gpus['count']}"
            yield fail(
                "gpus",
                f"{each['node']}: {site.gpus_per_node} GPUs requested; {found}",
                "check that the node's driver (nvidia-smi) supports torch's CUDA version, and check how the site names "
                "GPUs: see docs/how-to/clusters/gpus.md",
            )
            return
    first = reports[0]["gpus"]
    yield ok("gpus", f"torch {first['torch']} can use {', '.join(first['names'])} on every node")
