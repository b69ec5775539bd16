"""One rank of a job: prepare, meet the others, run the command, and watch over it."""

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

from snakemake_executor_plugin_submitit import place as places
from snakemake_executor_plugin_submitit import processes, requeue
from snakemake_executor_plugin_submitit.work import Preparation, Work

SAVED_VARIABLE = "SNAKEMAKE_SUBMITIT_SAVED"
"""Names the file that a program writes when it has saved after SIGUSR2."""
_TICK_SECONDS = 0.25
_GLANCE_SECONDS = 0.02
_PEERS_SECONDS = {"slurm": 5.0, "local": 0.3, "debug": 5.0}
"""How often a rank looks whether another has failed. On SLURM srun ends the step anyway."""
_STOP_GRACE_SECONDS = 25.0
EXIT_STOPPED = 143


class RankFailed(Exception):
    """This rank's command failed, or could not be started."""


class Rank:
    """Runs a job's command as one of its ranks."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.place = places.here()
        self.asked = processes.Asked()
        self.folder = work.folder
        self._looked = time.monotonic()

    def run(self) -> None:
        """Run to the end.

        Raises:
            RankFailed: With a note of why in the job's folder, for the head.
        """
        if self.place.cluster != "debug":
            self.asked.listen()
        self.folder.attempt(self.place.attempt).mkdir(parents=True, exist_ok=True)
        try:
            rendezvous = self._begin()
        except (places.CannotMeet, OSError, RankFailed) as error:
            raise self._failed(str(error)) from None
        log = self._open_log()
        try:
            process = processes.start(
                self._command(), self.work.shell, self.work.cwd, self._environment(rendezvous), log
            )
            if self._starts_snakemake() and self.place.several:
                self._release_peers_when_shell_starts(process, rendezvous)
            status = self._watch(process)
        finally:
            if log is not None:
                log.close()
        if status != 0:
            if self.asked.to_stop:
                if self._preempted():
                    self._after_preemption(process)
                sys.exit(EXIT_STOPPED)
            raise self._failed(f"exit status {status}" if status > 0 else f"killed by signal {-status}")

    # before the command

    def _starts_snakemake(self) -> bool:
        return self.place.rank == 0 and self.work.inner is not None

    def _command(self) -> str:
        command = self.work.inner if self._starts_snakemake() else self.work.command
        assert command is not None
        return command

    def _begin(self) -> places.Rendezvous | None:
        if self.place.rank == 0:
            if self.work.inner is None:
                prepare(self.work.preparation, self.work.cwd)
            if not self.place.several:
                return None
            rendezvous = places.choose(self.place, self.work.ports)
            if self.work.inner is None:
                places.publish(rendezvous, self.folder.go(self.place.attempt))
            return rendezvous
        while (rendezvous := places.published(self.folder.go(self.place.attempt))) is None:
            if self.asked.to_stop:
                sys.exit(EXIT_STOPPED)
            self._leave_if_lost(None)
            time.sleep(_TICK_SECONDS)
        return rendezvous

    def _release_peers_when_shell_starts(self, process: subprocess.Popen, rendezvous: places.Rendezvous | None) -> None:
        """The inner Snakemake has made directories and removed old outputs once it starts the rule's own command."""
        assert rendezvous is not None and self.work.command is not None
        while process.poll() is None and not self.asked.to_stop:
            if any(self.work.command in word for member in processes.tree(process)[1:] for word in _words(member)):
                break
            time.sleep(_GLANCE_SECONDS)
        if process.poll() in (None, 0):  # a command that needs nobody else may have ended between two glances
            places.publish(rendezvous, self.folder.go(self.place.attempt))

    def _environment(self, rendezvous: places.Rendezvous | None) -> dict[str, str]:
        environment = {name: value for name, value in os.environ.items() if name not in places.TORCH_NAMES}
        if not self._starts_snakemake():
            environment |= dict.fromkeys(("TMPDIR", "TMP", "TEMPDIR", "TEMP"), tempfile.gettempdir())
            environment |= self.work.environment
        if rendezvous is not None:
            environment |= places.torch_variables(self.place, rendezvous)
        if self.work.devices is not None:
            devices = self.work.devices
            own = devices[self.place.rank :: self.place.size] if self.place.several else devices
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(own)
        environment[SAVED_VARIABLE] = str(self.folder.saved)
        return environment

    def _open_log(self) -> IO[bytes] | None:
        if self.place.cluster == "debug":
            return None
        self.folder.logs.mkdir(parents=True, exist_ok=True)
        log = open(self.folder.rank_log(self.place.rank), "ab", buffering=0)
        log.write(
            f"== {self.work.title}, rank {self.place.rank} of {self.place.size}, {self.place.cluster} job "
            f"{self.place.job_id}, attempt {self.place.attempt + 1}, on {socket.gethostname()}, "
            f"{time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode()
        )
        return log

    # while it runs

    def _watch(self, process: subprocess.Popen) -> int:
        while True:
            try:
                return process.wait(_TICK_SECONDS)
            except subprocess.TimeoutExpired:
                pass
            if self.asked.to_save:
                self.asked.to_save = not self._save(process)
            if self.asked.to_stop:
                self._stop(process)
            self._leave_if_lost(process)

    def _save(self, process: subprocess.Popen) -> bool:
        """Asked to save: only rank 0 acts, for all. Returns where the job should simply go on.

        Returns:
            Whether that is settled: a program that is still starting will listen later.
        """
        if self.place.rank != 0:
            return True
        if self.place.cluster != "slurm":
            processes.ask(process, processes.SAVE)
            return True
        saved = requeue.save(process, self.folder.saved, requeue.save_seconds(self.work.signal_delay_seconds))
        if saved is None:
            return False
        if process.poll() is None or self.asked.to_stop:  # else it has just ended, well or not
            self._requeue(process, saved=saved)
        return True

    def _requeue(self, process: subprocess.Popen, *, saved: bool) -> None:
        if process.poll() == 0:
            return
        refused = requeue.requeue(self.work, self.place, saved=saved)
        if refused:
            processes.stop(process, 0)
            raise self._failed(refused, reason=requeue.reason_of(refused))
        requeue.await_end(process)
        sys.exit(EXIT_STOPPED)

    def _stop(self, process: subprocess.Popen) -> None:
        """TERM: a preemption that comes without USR2 saves and requeues; anything else ends the job."""
        if self._preempted():
            self._save(process)
            process.wait()  # nobody in it could be asked; SLURM requeues the job when its grace time is over
            self._after_preemption(process)
            return
        processes.stop(process, _STOP_GRACE_SECONDS)
        sys.exit(EXIT_STOPPED)

    def _after_preemption(self, process: subprocess.Popen) -> None:
        """The program has ended because of it. Rank 0 requeues; another rank that left now would end rank 0's step."""
        if self.place.rank == 0:
            self._requeue(process, saved=False)
        elif process.poll() != 0:
            time.sleep(requeue.END_SECONDS)

    def _preempted(self) -> bool:
        if self.place.cluster != "slurm" or self._failures():
            return False
        return requeue.is_preempted(self.place.job_id)

    def _leave_if_lost(self, process: subprocess.Popen | None) -> None:
        """End if another rank has failed, or if the head of a local job is gone."""
        head = self.work.head
        if head is not None and not processes.alive(head.pid, head.started):
            if process is not None:
                processes.stop(process, _STOP_GRACE_SECONDS)
            sys.exit(EXIT_STOPPED)
        if not self.place.several or time.monotonic() - self._looked < _PEERS_SECONDS[self.place.cluster]:
            return
        self._looked = time.monotonic()
        if self._failures():
            if process is not None:
                processes.stop(process, _STOP_GRACE_SECONDS / 2)
            sys.exit(EXIT_STOPPED)

    def _failures(self) -> list[Path]:
        return list(self.folder.attempt(self.place.attempt).glob("failed-*.json"))

    def _failed(self, text: str, reason: str = "") -> RankFailed:
        note = {
            "rank": self.place.rank,
            "host": socket.gethostname(),
            "text": text,
            "reason": reason,
            "time": time.time(),
            "log": str(self.folder.rank_log(self.place.rank)),
        }
        path = self.folder.failure(self.place.attempt, self.place.rank)
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(note))
        partial.rename(path)
        return RankFailed(f"{self.work.title}: rank {self.place.rank} on {note['host']}: {text}")


def prepare(preparation: Preparation, cwd: str) -> None:
    """Remove old outputs, make directories, wait for inputs, as Snakemake does before a rule's command.

    Raises:
        RankFailed: An output is write-protected, or an input is missing.
    """
    missing = places.wait_for((os.path.join(cwd, path) for path in preparation.inputs), preparation.latency_wait)
    if missing:
        raise RankFailed(f"inputs are not visible on {socket.gethostname()}: {', '.join(missing[:5])}")
    outputs = [(os.path.join(cwd, path), directory) for path, directory in preparation.outputs]
    protected = [path for path, _ in outputs if os.path.exists(path) and not os.access(path, os.W_OK)]
    if protected:
        raise RankFailed(f"write-protected outputs stand in the way: {', '.join(protected)}")
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


def _words(member: psutil.Process) -> list[str]:
    try:
        return member.cmdline()
    except psutil.NoSuchProcess:
        return []
