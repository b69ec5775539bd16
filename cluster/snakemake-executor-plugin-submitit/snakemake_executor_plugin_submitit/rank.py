"""Run one rank of a job: prepare, rendezvous with the other ranks, start the command, and supervise it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

import psutil

from snakemake_executor_plugin_submitit import failures, processes, requeue
from snakemake_executor_plugin_submitit.failures import TERMINATED
from snakemake_executor_plugin_submitit.preparation import PreparationError, prepare
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
from snakemake_executor_plugin_submitit.requeue import JobStatus
from snakemake_executor_plugin_submitit.work import Work

SAVED_VARIABLE = "SNAKEMAKE_SUBMITIT_SAVED"
"""Environment variable with the path of the file that a program creates after it has saved on SIGUSR2."""
_POLL_SECONDS = 0.25
_SHELL_START_POLL_SECONDS = 0.02
_PEER_CHECK_SECONDS = {"slurm": 5.0, "local": 0.3, "debug": 5.0}
"""Seconds between checks for a failure of another rank. On SLURM, srun also ends the step when a rank fails."""
_STOP_GRACE_SECONDS = 25.0
_SIGNAL_ARRIVAL_SECONDS = 1.0
"""Seconds within which a signal that SLURM sends to all processes of a step reaches each of them."""
EXIT_STOPPED = 143


class RankFailed(Exception):
    """This rank's command failed or could not be started."""


class Rank:
    """One rank of a job, which runs the job's command."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.info = current_rank_info()
        self.signals = processes.SIGNALS
        self.folder = work.folder
        self._last_peer_check = time.monotonic()

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
            raise self._failed(str(error)) from None
        except Exception as error:  # the workflow process must learn the reason for any failure
            raise self._failed(f"{type(error).__name__}: {error}") from error

    def _run(self) -> None:
        attempt = self.folder.attempt(self.info.attempt)
        attempt.mkdir(parents=True, exist_ok=True)
        failures.reserve_record(self._record_path())
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
                status = self._supervise(process)
            except Exception:
                processes.stop(process, _STOP_GRACE_SECONDS)
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
            self._stop(process)
        text = f"exit status {status}" if status > 0 else f"killed by signal {-status}"
        if self._stopped_peer():
            raise self._failed(f"{text}, after another rank was stopped by SIGTERM", TERMINATED)
        raise self._failed(text)

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
            self._exit_if_abandoned(None)
            time.sleep(_POLL_SECONDS)
        return rendezvous

    def _stop_if_requested(self) -> None:
        if self.signals.stop_requested:
            self._stop(None)

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
            raise self._failed(f"cannot write to the log {path}: {error}") from None
        return log

    # while the command runs

    def _supervise(self, process: subprocess.Popen) -> int:
        while True:
            try:
                return process.wait(_POLL_SECONDS)
            except subprocess.TimeoutExpired:
                pass
            if self.signals.save_requested:
                self.signals.save_requested = not self._save(process)
            if self.signals.stop_requested:
                self._stop(process)
            self._exit_if_abandoned(process)

    def _save(self, process: subprocess.Popen, cause: str = "") -> bool:
        """Signal the program to save, then requeue the job. Only rank 0 acts, on behalf of all ranks.

        Args:
            process: The command's shell.
            cause: Why the job is requeued, or an empty string to determine the cause after the program has saved.

        Returns:
            Whether the request to save was handled. False if the program has not installed its handler yet.
        """
        if self.info.rank != 0:
            return True
        if self.info.cluster != "slurm":
            processes.signal_handlers(process, processes.SAVE_SIGNAL)
            return True
        saved = requeue.save(process, self.folder.saved, requeue.save_seconds(self.work.signal_delay_seconds))
        if saved is None:
            return False
        if self.signals.stop_requested:
            if not cause and requeue.query_status(self.info.job_id) is JobStatus.ENDING:
                return True  # for example, the job was cancelled while the program saved
        elif process.poll() is not None:
            return True  # the program has ended by itself
        self._requeue(process, cause or requeue.cause_of_signal(self.work, self.info), saved=saved)
        return True

    def _requeue(self, process: subprocess.Popen | None, cause: str, *, saved: bool) -> None:
        if process is not None and process.poll() == 0:
            return
        refused = requeue.requeue(self.work, self.info, cause, saved=saved)
        if refused:
            if process is not None and process.poll() == 0:
                return  # the program completed while scontrol did not respond
            failed = self._failed(refused, reason=requeue.reason_of(refused))
            if process is not None:
                processes.stop(process, 0)
            raise failed
        requeue.wait_for_step_end(process)
        sys.exit(EXIT_STOPPED)

    def _stop(self, process: subprocess.Popen | None) -> None:
        """Handle SIGTERM: save and requeue if the job was preempted without SIGUSR2, otherwise end this rank.

        If SLURM is not ending the job, the signal came from outside the job, for example from a node that returned
        after a failure. The rank records this before the program ends, so that a failure of another rank that results
        from this stop can be recognized as such.
        """
        deadline = time.monotonic() + _STOP_GRACE_SECONDS
        if self.info.cluster == "slurm" and not self._failure_records():
            status = requeue.query_status(self.info.job_id)
            if status is JobStatus.PREEMPTED:
                self._end_preempted(process)
                return
            if status is not JobStatus.ENDING:
                self._failed("stopped by SIGTERM from outside the job", TERMINATED)
                if self.info.rank == 0 and process is not None and not processes.handles(process, signal.SIGTERM):
                    requeue.save(process, self.folder.saved, deadline - time.monotonic())
        if process is not None:
            processes.stop(process, deadline - time.monotonic())
        sys.exit(EXIT_STOPPED)

    def _end_preempted(self, process: subprocess.Popen | None) -> None:
        """Save and requeue the job from rank 0. Other ranks wait: their exit would end the step."""
        if process is not None:
            self._save(process, requeue.PREEMPTED)
            process.wait()  # reached if no process handles SIGUSR2; SLURM requeues the job after the grace time
            if process.returncode == 0:
                return
        if self.info.rank == 0:
            self._requeue(process, requeue.PREEMPTED, saved=False)
        time.sleep(requeue.END_SECONDS)
        raise self._failed("stopped because the job was preempted", "PREEMPTED")

    def _exit_if_abandoned(self, process: subprocess.Popen | None) -> None:
        """Exit if another rank failed, or if the workflow process of a local job has ended."""
        workflow_process = self.work.head
        if workflow_process is not None and not processes.is_alive(workflow_process.pid, workflow_process.started):
            if process is not None:
                processes.stop(process, _STOP_GRACE_SECONDS)
            sys.exit(EXIT_STOPPED)
        since_check = time.monotonic() - self._last_peer_check
        if not self.info.is_distributed or since_check < _PEER_CHECK_SECONDS[self.info.cluster]:
            return
        self._last_peer_check = time.monotonic()
        if self._failure_records():
            if process is not None:
                processes.stop(process, _STOP_GRACE_SECONDS / 2)
            sys.exit(EXIT_STOPPED)

    def _failure_records(self) -> list[Path]:
        return list(self.folder.attempt(self.info.attempt).glob("failed-*.json"))

    def _stopped_peer(self) -> bool:
        """Return whether another rank was stopped by SIGTERM while this rank's program was running."""
        try:
            records = failures.read_records(self.folder.attempt(self.info.attempt))
        except OSError:
            return False
        return bool(records) and all(record["reason"] == TERMINATED for record in records)

    def _record_path(self) -> Path:
        return self.folder.failure(self.info.attempt, self.info.rank)

    def _failed(self, text: str, reason: str = "") -> RankFailed:
        """Record a failure for the workflow process, and return it as an exception."""
        record = {
            "rank": self.info.rank,
            "host": socket.gethostname(),
            "text": text,
            "reason": reason,
            "time": time.time(),
            "log": str(self.folder.rank_log(self.info.rank)),
        }
        try:
            failures.write_record(self._record_path(), record)
        except OSError as error:
            text += f" (this failure was not recorded in {self._record_path()}: {error})"
        return RankFailed(f"{self.work.title}: rank {self.info.rank} on {record['host']}: {text}")


def _command_line(member: psutil.Process) -> list[str]:
    try:
        return member.cmdline()
    except psutil.Error:
        return []
