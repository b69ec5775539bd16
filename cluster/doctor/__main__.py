"""The command line: python -m cluster.doctor [--partition P] [--account A] [--gpus N] [--json]."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from cluster.doctor import head, trials
from cluster.doctor.findings import Finding, as_json, passed
from cluster.doctor.site import Site, from_environment


def main(arguments: list[str] | None = None) -> int:
    """Check the site.

    Returns:
        0 where nothing fails, else 1.
    """
    asked = _parser().parse_args(arguments)
    findings: list[Finding] = []
    for finding in _checks(_site(asked), asked.jobs):
        findings.append(finding)
        if not asked.json:
            print(finding.line(), flush=True)
    if asked.json:
        print(as_json(findings))
    return 0 if passed(findings) else 1


def _checks(site: Site, with_jobs: bool) -> Iterator[Finding]:
    """Every check, the cheap ones first; what needs SLURM only where there is one."""
    basis = list(head.commands())
    yield from basis
    if passed(basis):
        found = [*head.accounting(), *head.partition(site), *head.submission(site), *head.limits()]
        yield from found
    else:
        found = basis
    yield from head.tracking(site)
    local = list(head.disk(site))
    yield from local
    if with_jobs and passed(found) and passed(local):
        yield from trials.requeue(site)
        yield from trials.meeting(site)


def _site(asked: argparse.Namespace) -> Site:
    return Site(
        folder=asked.folder.resolve(),
        partition=asked.partition,
        account=asked.account,
        qos=asked.qos,
        constraint=asked.constraint,
        reservation=asked.reservation,
        extra=tuple(shlex.split(asked.extra or "")),
        nodes=asked.nodes,
        gpus_per_node=asked.gpus,
        wait_seconds=asked.wait,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cluster.doctor",
        description="Checks a SLURM site before the first run. Defaults come from SNAKEMAKE_SUBMITIT_PARTITION, "
        "..._ACCOUNT and so on, as for the executor plugin. Exit status 1 if a check fails.",
    )
    for name in ("partition", "account", "qos", "constraint", "reservation"):
        parser.add_argument(f"--{name}", default=from_environment(name), help=f"SLURM's --{name}")
    parser.add_argument("--extra", default=from_environment("extra"), help="more sbatch options, as one string")
    parser.add_argument("--nodes", type=_number(1), default=2, help="nodes of the job that tries to meet (%(default)s)")
    parser.add_argument("--gpus", type=_number(0), default=0, help="GPUs per node that torch must see (%(default)s)")
    parser.add_argument("--folder", type=_folder, default=Path(), help="where snakemake will be started (here)")
    parser.add_argument(
        "--wait", type=_number(1), default=600, help="seconds that a job may wait in the queue and run (%(default)s)"
    )
    parser.add_argument("--no-jobs", dest="jobs", action="store_false", help="only what needs no job")
    parser.add_argument("--json", action="store_true", help="print all findings as JSON")
    return parser


def _number(least: int):
    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is too few, it must be {least} or more")
        return value

    return number


def _folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no folder")
    return Path(text)


if __name__ == "__main__":
    sys.exit(main())
