"""Command line of the doctor, which `mem doctor` calls too: [--partition P] [--account A] [--gpus N] [--json]."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from snakemake_executor_plugin_submitit.doctor import environment_checks, job_checks, login_checks
from snakemake_executor_plugin_submitit.doctor.check_results import CheckResult, as_json, passed
from snakemake_executor_plugin_submitit.doctor.site import Site, from_environment


def main(
    arguments: list[str] | None = None, program: str = "python -m snakemake_executor_plugin_submitit.doctor"
) -> int:
    """Run all checks and print their findings.

    Args:
        arguments: The arguments of the command. None stands for those of this process.
        program: The command, for its help text.

    Returns:
        The exit status: 1 if any check failed, else 0.
    """
    options = _parser(program).parse_args(arguments)
    findings: list[CheckResult] = []
    for finding in _run_checks(_site(options), options.jobs):
        findings.append(finding)
        if not options.json:
            print(finding.line(), flush=True)
    if options.json:
        print(as_json(findings))
    return 0 if passed(findings) else 1


def _run_checks(site: Site, with_jobs: bool) -> Iterator[CheckResult]:
    """Run the fast checks, then the test jobs. If SLURM is not available, skip all checks that need it."""
    commands = list(login_checks.check_commands())
    yield from commands
    if passed(commands):
        slurm = [
            *environment_checks.check_environment(),
            *login_checks.check_accounting(),
            *login_checks.check_partition(site),
            *login_checks.check_submission(site),
            *login_checks.check_limits(),
        ]
        yield from slurm
    else:
        slurm = commands
    yield from login_checks.check_tracking(site)
    disk = list(login_checks.check_disk(site))
    yield from disk
    if with_jobs and passed(slurm) and passed(disk):
        yield from job_checks.check_requeue(site)
        yield from job_checks.check_nodes(site)


def _site(options: argparse.Namespace) -> Site:
    return Site(
        folder=options.folder.resolve(),
        partition=options.partition,
        account=options.account,
        qos=options.qos,
        constraint=options.constraint,
        reservation=options.reservation,
        extra=tuple(shlex.split(options.extra or "")),
        nodes=options.nodes,
        gpus_per_node=options.gpus,
        wait_seconds=options.wait,
    )


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description="Check a SLURM site before the first run and print what to fix. Like the executor plugin, the "
        "doctor reads defaults from SNAKEMAKE_SUBMITIT_PARTITION, SNAKEMAKE_SUBMITIT_ACCOUNT and so on. "
        "The exit status is 1 if a check fails.",
    )
    for name in ("partition", "account", "qos", "constraint", "reservation"):
        parser.add_argument(f"--{name}", default=from_environment(name), help=f"value of sbatch's --{name}")
    parser.add_argument("--extra", default=from_environment("extra"), help="additional sbatch options, as one string")
    parser.add_argument(
        "--nodes", type=_number(1), default=2, help="number of nodes in the multi-node test job (default: %(default)s)"
    )
    parser.add_argument(
        "--gpus", type=_number(0), default=0, help="GPUs per node that torch must detect (default: %(default)s)"
    )
    parser.add_argument(
        "--folder", type=_folder, default=Path(), help="working directory for snakemake (default: the current one)"
    )
    parser.add_argument(
        "--wait",
        type=_number(1),
        default=600,
        help="maximum time in seconds for a test job to start and finish (default: %(default)s)",
    )
    parser.add_argument("--no-jobs", dest="jobs", action="store_false", help="do not submit test jobs")
    parser.add_argument("--json", action="store_true", help="print all findings as JSON")
    return parser


def _number(minimum: int):
    def number(text: str) -> int:
        value = int(text)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"expected an integer of at least {minimum}, got {value}")
        return value

    return number


def _folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"expected an existing folder, got {text}")
    return Path(text)


if __name__ == "__main__":
    sys.exit(main())
