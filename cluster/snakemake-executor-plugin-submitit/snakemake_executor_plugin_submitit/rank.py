"""Run one rank of a job: prepare, rendezvous with the other ranks, start the command, and supervise it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from typing import IO

import psutil

from snakemake_executor_plugin_submitit import processes
from snakemake_executor_plugin_submitit.failures import TERMINATED
from snakemake_executor_plugin_submitit.preparation import PreparationError, prepare
from snakemake_executor_plugin_submitit.rank_failures import RankFailed, RankFailures
from snakemake_executor_plugin_submitit.rendezvous import (
    TORCH_NAMES,
    Rendezvous,
    RendezvousError,
    choose_rendezvous,
    current_rank_info,
    publish_rendezvous,
    read_rendezvous,
    torch_variables,
)
from snakemake_executor_plugin_submitit.supervision import EXIT_STOPPED, POLL_SECONDS, STOP_GRACE_SECONDS, Supervisor
from snakemake_executor_plugin_submitit.work import Work

SAVED_VARIABLE = "SNAKEMAKE_SUBMITIT_SAVED"
"""Environment variable with the path of the file that a program creates after it has saved on SIGUSR2."""
_SHELL_START_POLL_SECONDS = 0.02
_SIGNAL_ARRIVAL_SECONDS = 1.0
"""Seconds within which a signal that SLURM sends to all processes of a step reaches each of them."""


class Rank:
    """One rank of a job, which runs the job's command."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.info = current_rank_info()
        self.signals = processes.SIGNALS
        self.folder = work.folder
        self.failures = RankFailures(work, self.info)
        self.supervisor = Supervisor(work, self.info, self.signals, self.failures)

    def run(self) -> None:
        """Run the rank until its command ends.

        Raises:
            RankFailed: The command failed or could not be started. A file in the job's folder contains the reason
                for the workflow process.
        """
        if self.info.cluster != "debug":
            self.signals.install()
        try:
            self._run()
        except RankFailed:
            raise
        except (RendezvousError, PreparationError, OSError) as error:
            raise self.failures.record(str(error)) from None
        except Exception as error:  # the workflow process must learn the reason for any failure
            raise self.failures.record(f"{type(error).__name__}: {error}") from error

    def _run(self) -> None:
        self.failures.reserve()
        if self._completed_earlier():
            return
        rendezvous = self._prepare_and_rendezvous()
        log = self._open_log()
        try:
            process = processes.start(
                self._command(), self.work.shell, self.work.cwd, self._environment(rendezvous), log
            )
            try:
                if self._runs_inner_snakemake() and self.info.is_distributed:
                    self._release_peers_when_shell_starts(process, rendezvous)
                status = self.supervisor.supervise(process)
            except Exception:
                processes.stop(process, STOP_GRACE_SECONDS)
                raise
        finally:
            if log is not None:
                log.close()
        if status == 0:
            self._record_completion()
            return
        if status in (EXIT_STOPPED, -signal.SIGTERM) and not self.signals.stop_requested:
            time.sleep(_SIGNAL_ARRIVAL_SECONDS)  # the signal may reach the program before it reaches this process
        if self.signals.stop_requested:
            self.supervisor.stop(process)
        text = f"exit status {status}" if status > 0 else f"killed by signal {-status}"
        if self.failures.a_peer_was_stopped():
            raise self.failures.record(f"{text}, after another rank was stopped by SIGTERM", TERMINATED)
        raise self.failures.record(text)

    # before the command

    def _completed_earlier(self) -> bool:
        """Return whether the job was requeued although the commands of all ranks had completed.

        This happens if a node fails, or the job is preempted, before SLURM registers the end of the job.
        """
        if self.info.attempt == 0:
            return False
        attempts = {self._completed_attempt(rank) for rank in range(self.info.world_size)}
        if len(attempts) == 1 and attempts <= set(range(self.info.attempt)):
            return True
        self.folder.completed(self.info.rank).unlink(missing_ok=True)
        return False

    def _completed_attempt(self, rank: int) -> int | None:
        """Return the attempt in which a rank's command completed, or None."""
        try:
            return int(self.folder.completed(rank).read_text())
        except (OSError, ValueError):
            return None

    def _record_completion(self) -> None:
        if self.info.cluster == "slurm":
            with contextlib.suppress(OSError):  # without this file, a requeued job is repeated
                self.folder.completed(self.info.rank).write_text(str(self.info.attempt))

    def _runs_inner_snakemake(self) -> bool:
        return self.info.rank == 0 and self.work.inner is not None

    def _command(self) -> str:
        command = self.work.inner if self._runs_inner_snakemake() else self.work.command
        assert command is not None
        return command

    def _prepare_and_rendezvous(self) -> Rendezvous | None:
        if self.info.rank == 0:
            if self.work.inner is None:
                prepare(self.work.preparation, self.work.cwd, lambda: self.signals.stop_requested)
            self._stop_if_requested()
            if not self.info.is_distributed:
                return None
            rendezvous = choose_rendezvous(self.info, self.work.ports)
            if self.work.inner is None:
                publish_rendezvous(rendezvous, self.folder.go(self.info.attempt))
            return rendezvous
        while (rendezvous := read_rendezvous(self.folder.go(self.info.attempt))) is None:
            self._stop_if_requested()
            self.supervisor.exit_if_abandoned(None)
            time.sleep(POLL_SECONDS)
        return rendezvous

    def _stop_if_requested(self) -> None:
        if self.signals.stop_requested:
            self.supervisor.stop(None)

    def _release_peers_when_shell_starts(self, process: subprocess.Popen, rendezvous: Rendezvous | None) -> None:
        """Release the other ranks once the inner Snakemake starts the rule's command.

        By then, the inner Snakemake has created directories and removed old outputs.
        """
        assert rendezvous is not None and self.work.command is not None
        while process.poll() is None and not self.signals.stop_requested:
            words = (word for member in processes.process_tree(process)[1:] for word in _command_line(member))
            if any(self.work.command in word for word in words):
                break
            time.sleep(_SHELL_START_POLL_SECONDS)
        if process.poll() in (None, 0):  # a short command may have ended between two polls
            publish_rendezvous(rendezvous, self.folder.go(self.info.attempt))

    def _environment(self, rendezvous: Rendezvous | None) -> dict[str, str]:
        environment = {name: value for name, value in os.environ.items() if name not in TORCH_NAMES}
        if not self._runs_inner_snakemake():
            environment |= dict.fromkeys(("TMPDIR", "TMP", "TEMPDIR", "TEMP"), tempfile.gettempdir())
            environment |= self.work.environment
        if rendezvous is not None:
            environment |= torch_variables(self.info, rendezvous)
        if self.work.devices is not None:
            devices = self.work.devices
            if self.info.is_distributed:
                devices = devices[self.info.rank :: self.info.world_size]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
        environment[SAVED_VARIABLE] = str(self.folder.saved)
        return environment

    def _open_log(self) -> IO[bytes] | None:
        if self.info.cluster == "debug":
            return None
        path = self.folder.rank_log(self.info.rank)
        header = (
            f"== {self.work.title}, rank {self.info.rank} of {self.info.world_size}, {self.info.cluster} job "
            f"{self.info.job_id}, attempt {self.info.attempt + 1}, on {socket.gethostname()}, "
            f"{time.strftime('%Y-%m-%d %H:%M:%S')}\n"
        )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            log = open(path, "ab", buffering=0)
            log.write(header.encode())
        except OSError as error:
            raise self.failures.record(f"cannot write to the log {path}: {error}") from None
        return log


def _command_line(member: psutil.Process) -> list[str]:
    try:
        return member.cmdline()
    except psutil.Error:
        return []
