"""Command-line interface: `python -m cluster.throwaway up|down|status|env|run`."""

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
    """Run the subcommand that the arguments specify.

    Returns:
        The exit status: 0 on success, 2 if the subcommand failed, or `EXIT_NOT_UP` if `status` or `env` found no
        running SLURM cluster. For `run`, the exit status of the user's command.
    """
    options = _parser().parse_args(arguments)
    try:
        if options.command == "up":
            return _up(options)
        if options.command == "run":
            return _run(options.arguments)
        slurm = ThrowawaySlurm(log=print)
        if options.command == "down":
            slurm.down()
            return 0
        return _status(slurm) if options.command == "status" else _env(slurm)
    except ThrowawayError as error:
        print(f"throwaway: {error}", file=sys.stderr)
        return 2


def _up(options: argparse.Namespace) -> int:
    running = ThrowawaySlurm()
    layout = running.layout if running.is_up() else Layout(options.nodes, options.cores, options.gpus)
    slurm = ThrowawaySlurm(layout, log=lambda text: print(text, flush=True))
    slurm.up()
    print("To use this SLURM cluster in your shell, run:")
    print(_exports(slurm))
    return 0


def _run(command: list[str]) -> int:
    """Run the user's command on the throwaway SLURM cluster. Start and stop the cluster unless it is running."""
    with ThrowawaySlurm(log=lambda text: print(text, file=sys.stderr, flush=True)) as slurm:
        try:
            return subprocess.run(command, env={**os.environ, **slurm.environment()}, check=False).returncode
        except FileNotFoundError:
            raise ThrowawayError(f"{command[0]}: command not found") from None


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
        print("throwaway: SLURM is not running; start it with `make slurm-up`", file=sys.stderr)
        return EXIT_NOT_UP
    print(_exports(slurm))
    return 0


def _exports(slurm: ThrowawaySlurm) -> str:
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in slurm.environment().items())


def _parser() -> argparse.ArgumentParser:
    sizes = Layout()
    parser = argparse.ArgumentParser(
        prog="python -m cluster.throwaway", description="Run a real SLURM cluster on this machine for tests."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start SLURM unless it is already running")
    up.add_argument("--nodes", type=_count(1), default=sizes.node_count, help="number of nodes (default: %(default)s)")
    up.add_argument(
        "--cores", type=_count(1), default=sizes.cores_per_node, help="cores per node (default: %(default)s)"
    )
    up.add_argument(
        "--gpus", type=_count(0), default=sizes.gpus_per_node, help="simulated GPUs per node (default: %(default)s)"
    )
    run = commands.add_parser("run", help="run a command, with SLURM started for it unless SLURM is running")
    run.add_argument("arguments", nargs=argparse.REMAINDER, metavar="COMMAND ...", help="the command")
    commands.add_parser("down", help="stop SLURM and remove its files")
    commands.add_parser("status", help="print the processes, nodes and jobs")
    commands.add_parser("env", help='print the shell environment: eval "$(python -m cluster.throwaway env)"')
    return parser


def _count(minimum: int):
    def count(text: str) -> int:
        number = int(text)
        if number < minimum:
            raise argparse.ArgumentTypeError(f"expected an integer of at least {minimum}, got {number}")
        return number

    return count


if __name__ == "__main__":
    sys.exit(main())
