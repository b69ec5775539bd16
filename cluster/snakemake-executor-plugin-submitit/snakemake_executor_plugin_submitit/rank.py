"""Run one rank of a job: prepare, rendezvous with the other ranks, start the command, and supervise it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

import psutil

from snakemake_executor_plugin_submitit import processes, requeue
from snakemake_executor_plugin_submitit.rendezvous import (
    TORCH_NAMES,
    Rendezvous,
    RendezvousError,
    choose_rendezvous,
    current_rank_info,
    publish_rendezvous,
    read_rendezvous,
    torch_variables,
    wait_for,
)
from snakemake_executor_plugin_submitit.work import Preparation, Work

SAVED_VARIABLE = "SNAKEMAKE_SUBMITIT_SAVED"
"""Environment variable with the path of the file that a program creates after it has saved on SIGUSR2."""
_POLL_SECONDS = 0.25
_SHELL_START_POLL_SECONDS = 0.02
_PEER_CHECK_SECONDS = {"slurm": 5.0, "local": 0.3, "debug": 5.0}
"""Seconds between checks for a failure of another rank. On SLURM, srun also ends the step when a rank fails."""
_STOP_GRACE_SECONDS = 25.0
EXIT_STOPPED = 143


class RankFailed(Exception):
    """This rank's command failed or could not be started."""


class Rank:
    """One rank of a job, which runs the job's command."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.info = current_rank_info()
        self.signals = processes.SignalFlags()
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
        self.folder.attempt(self.info.attempt).mkdir(parents=True, exist_ok=True)
        try:
            rendezvous = self._prepare_and_rendezvous()
        except (RendezvousError, OSError, RankFailed) as error:
            raise self._failed(str(error)) from None
        log = self._open_log()
        try:
            process = processes.start(
                self._command(), self.work.shell, self.work.cwd, self._environment(rendezvous), log
            )
            if self._runs_inner_snakemake() and self.info.is_distributed:
                self._release_peers_when_shell_starts(process, rendezvous)
            status = self._supervise(process)
        finally:
            if log is not None:
                log.close()
        if status != 0:
            if self.signals.stop_requested:
                if self._is_preempted():
                    self._after_preemption(process)
                sys.exit(EXIT_STOPPED)
            raise self._failed(f"exit status {status}" if status > 0 else f"killed by signal {-status}")

    # before the command

    def _runs_inner_snakemake(self) -> bool:
        return self.info.rank == 0 and self.work.inner is not None

    def _command(self) -> str:
        command = self.work.inner if self._runs_inner_snakemake() else self.work.command
        assert command is not None
        return command

    def _prepare_and_rendezvous(self) -> Rendezvous | None:
        if self.info.rank == 0:
            if self.work.inner is None:
                prepare(self.work.preparation, self.work.cwd)
            if not self.info.is_distributed:
                return None
            rendezvous = choose_rendezvous(self.info, self.work.ports)
            if self.work.inner is None:
                publish_rendezvous(rendezvous, self.folder.go(self.info.attempt))
            return rendezvous
        while (rendezvous := read_rendezvous(self.folder.go(self.info.attempt))) is None:
            if self.signals.stop_requested:
                sys.exit(EXIT_STOPPED)
            self._exit_if_abandoned(None)
            time.sleep(_POLL_SECONDS)
        return rendezvous

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
        self.folder.logs.mkdir(parents=True, exist_ok=True)
        log = open(self.folder.rank_log(self.info.rank), "ab", buffering=0)
        log.write(
            f"== {self.work.title}, rank {self.info.rank} of {self.info.world_size}, {self.info.cluster} job "
            f"{self.info.job_id}, attempt {self.info.attempt + 1}, on {socket.gethostname()}, "
            f"{time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode()
        )
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

    def _save(self, process: subprocess.Popen) -> bool:
        """Signal the program to save, then requeue the job. Only rank 0 acts, on behalf of all ranks.

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
        if process.poll() is None or self.signals.stop_requested:  # otherwise the program has already ended
            self._requeue(process, saved=saved)
        return True

    def _requeue(self, process: subprocess.Popen, *, saved: bool) -> None:
        if process.poll() == 0:
            return
        refused = requeue.requeue(self.work, self.info, saved=saved)
        if refused:
            processes.stop(process, 0)
            raise self._failed(refused, reason=requeue.reason_of(refused))
        requeue.wait_for_step_end(process)
        sys.exit(EXIT_STOPPED)

    def _stop(self, process: subprocess.Popen) -> None:
        """Handle SIGTERM: save and requeue if the job was preempted without SIGUSR2, otherwise end the job."""
        if self._is_preempted():
            self._save(process)
            process.wait()  # reached if no process handles SIGUSR2; SLURM requeues the job after the grace time
            self._after_preemption(process)
            return
        processes.stop(process, _STOP_GRACE_SECONDS)
        sys.exit(EXIT_STOPPED)

    def _after_preemption(self, process: subprocess.Popen) -> None:
        """Requeue the job from rank 0 after the program ended. Other ranks wait: their exit would end the step."""
        if self.info.rank == 0:
            self._requeue(process, saved=False)
        elif process.poll() != 0:
            time.sleep(requeue.END_SECONDS)

    def _is_preempted(self) -> bool:
        if self.info.cluster != "slurm" or self._failure_records():
            return False
        return requeue.is_preempted(self.info.job_id)

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

    def _failed(self, text: str, reason: str = "") -> RankFailed:
        record = {
            "rank": self.info.rank,
            "host": socket.gethostname(),
            "text": text,
            "reason": reason,
            "time": time.time(),
            "log": str(self.folder.rank_log(self.info.rank)),
        }
        path = self.folder.failure(self.info.attempt, self.info.rank)
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(record))
        partial.rename(path)
        return RankFailed(f"{self.work.title}: rank {self.info.rank} on {record['host']}: {text}")


def prepare(preparation: Preparation, cwd: str) -> None:
    """Wait for inputs, remove old outputs and create directories, as Snakemake does before a rule's command runs.

    Raises:
        RankFailed: An output is write-protected, or an input is missing.
    """
    missing = wait_for((os.path.join(cwd, path) for path in preparation.inputs), preparation.latency_wait)
    if missing:
        raise RankFailed(
            f"inputs did not appear on {socket.gethostname()} within {preparation.latency_wait:g} s (--latency-wait): "
            + ", ".join(missing[:5])
        )
    outputs = [(os.path.join(cwd, path), directory) for path, directory in preparation.outputs]
    protected = [path for path, _ in outputs if os.path.exists(path) and not os.access(path, os.W_OK)]
    if protected:
        raise RankFailed(f"these outputs exist and are write-protected: {', '.join(protected)}")
    for path, directory in [*outputs, *((os.path.join(cwd, log), False) for log in preparation.logs)]:
        _remove(path, directory)
        os.makedirs(os.path.dirname(path), exist_ok=True)


def _remove(path: str, directory: bool) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        if directory:
            shutil.rmtree(path)
        elif not os.listdir(path):
            os.rmdir(path)
    elif path != os.devnull and os.path.lexists(path):
        os.remove(path)


def _command_line(member: psutil.Process) -> list[str]:
    try:
        return member.cmdline()
    except psutil.NoSuchProcess:
        return []
