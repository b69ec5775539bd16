"""The command line: python -m cluster.throwaway up|down|status|env|run."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys

from cluster.throwaway.layout import Layout
from cluster.throwaway.packages import ThrowawayError
from cluster.throwaway.slurm import ThrowawaySlurm

EXIT_NOT_UP = 3


def main(arguments: list[str] | None = None) -> int:
    """Do what was asked.

    Returns:
        0; 2 where it could not be done; `EXIT_NOT_UP` where `status` or `env` find none that runs; with `run`, the
        command's own.
    """
    asked = _parser().parse_args(arguments)
    try:
        if asked.command == "up":
            return _up(asked)
        if asked.command == "run":
            return _run(asked.arguments)
        slurm = ThrowawaySlurm(say=print)
        if asked.command == "down":
            slurm.down()
            return 0
        return _status(slurm) if asked.command == "status" else _env(slurm)
    except ThrowawayError as error:
        print(f"throwaway: {error}", file=sys.stderr)
        return 2


def _up(asked: argparse.Namespace) -> int:
    running = ThrowawaySlurm()
    layout = running.layout if running.is_up() else Layout(asked.nodes, asked.cores, asked.gpus)
    slurm = ThrowawaySlurm(layout, say=lambda text: print(text, flush=True))
    slurm.up()
    print("Now tell your shell about it:")
    print(_exports(slurm))
    return 0


def _run(command: list[str]) -> int:
    """Run a command on it; it is started for the time where it is not up."""
    with ThrowawaySlurm(say=lambda text: print(text, file=sys.stderr, flush=True)) as slurm:
        try:
            return subprocess.run(command, env={**os.environ, **slurm.environment()}, check=False).returncode
        except FileNotFoundError:
            raise ThrowawayError(f"{command[0]}: no such command") from None


def _status(slurm: ThrowawaySlurm) -> int:
    for name, pid in slurm.status():
        print(f"{name:<12} {'down' if pid is None else f'process {pid}'}")
    if not slurm.is_up():
        return EXIT_NOT_UP
    print(slurm.run("sinfo"))
    print(slurm.run("squeue"))
    return 0


def _env(slurm: ThrowawaySlurm) -> int:
    if not slurm.is_up():
        print("throwaway: it is not up; `make slurm-up` starts it", file=sys.stderr)
        return EXIT_NOT_UP
    print(_exports(slurm))
    return 0


def _exports(slurm: ThrowawaySlurm) -> str:
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in slurm.environment().items())


def _parser() -> argparse.ArgumentParser:
    sizes = Layout()
    parser = argparse.ArgumentParser(prog="python -m cluster.throwaway", description="A real SLURM on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start it; says so where it runs already")
    up.add_argument("--nodes", type=_count(1), default=sizes.node_count, help="number of nodes (%(default)s)")
    up.add_argument("--cores", type=_count(1), default=sizes.cores_per_node, help="cores per node (%(default)s)")
    up.add_argument("--gpus", type=_count(0), default=sizes.gpus_per_node, help="pretended GPUs per node (%(default)s)")
    run = commands.add_parser("run", help="run a command on it; started before and stopped after, if it is not up")
    run.add_argument("arguments", nargs=argparse.REMAINDER, metavar="COMMAND ...", help="the command")
    commands.add_parser("down", help="stop exactly what was started, and remove it")
    commands.add_parser("status", help="its processes, nodes and jobs")
    commands.add_parser("env", help='what the shell must know: eval "$(python -m cluster.throwaway env)"')
    return parser


def _count(least: int):
    def count(text: str) -> int:
        number = int(text)
        if number < least:
            raise argparse.ArgumentTypeError(f"{number} is too few, it must be {least} or more")
        return number

    return count


if __name__ == "__main__":
    sys.exit(main())
