"""Run the jobs of a bundle one after another, as the only rank of a job of the cluster."""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

from snakemake_executor_plugin_submitit import processes
from snakemake_executor_plugin_submitit.failures import TERMINATED, first_failure
from snakemake_executor_plugin_submitit.rank import Rank
from snakemake_executor_plugin_submitit.rank_failures import RankFailed
from snakemake_executor_plugin_submitit.work import Bundle, Work

_SERVICE_END_SECONDS = 30.0


def run_bundle(bundle: Bundle) -> None:
    """Run each job that has not ended in an earlier attempt. A job that fails does not affect the others.

    If the cluster stops or requeues the bundle, the rank of the running job exits this process.
    """
    with _service(bundle) as variables:
        for work in bundle.jobs:
            if not _failed_earlier(work):
                with contextlib.suppress(RankFailed):  # the failure is recorded in the job's folder
                    Rank(replace(work, environment={**work.environment, **variables})).run()


def _failed_earlier(work: Work) -> bool:
    """Return whether the command failed before the bundle was requeued. Such a job is not repeated."""
    failure = first_failure(work.folder)
    return failure is not None and failure.reason != TERMINATED


@contextlib.contextmanager
def _service(bundle: Bundle) -> Iterator[dict[str, str]]:
    """Run the bundle's service, and yield the environment variable that it prints for the commands of the jobs.

    The jobs run without the service if it cannot be started.
    """
    if not bundle.service:
        yield {}
        return
    try:
        service = subprocess.Popen(
            shlex.split(bundle.service),
            cwd=bundle.jobs[0].cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=processes.ignore_signals,
        )
    except OSError as error:
        print(f"The bundle's service cannot be started: {error}", file=sys.stderr)
        yield {}
        return
    assert service.stdout is not None
    name, found, value = service.stdout.readline().strip().partition("=")
    try:
        yield {name: value} if found else {}
    finally:
        try:
            service.communicate(timeout=_SERVICE_END_SECONDS)
        except subprocess.TimeoutExpired:
            service.kill()
            service.communicate()
