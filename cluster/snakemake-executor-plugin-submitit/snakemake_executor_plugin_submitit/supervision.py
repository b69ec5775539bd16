"""Supervise a rank's running program: pass on signals, save and requeue the job, and end the rank when others ended."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

from snakemake_executor_plugin_submitit import processes, requeue
from snakemake_executor_plugin_submitit.failures import TERMINATED
from snakemake_executor_plugin_submitit.rank_failures import RankFailures
from snakemake_executor_plugin_submitit.rendezvous import RankInfo
from snakemake_executor_plugin_submitit.requeue import JobStatus
from snakemake_executor_plugin_submitit.work import Work

EXIT_STOPPED = 143
STOP_GRACE_SECONDS = 25.0
"""Seconds that a program may use to end after SIGTERM."""
POLL_SECONDS = 0.25
_PEER_CHECK_SECONDS = {"slurm": 5.0, "local": 0.3, "debug": 5.0}
"""Seconds between checks for a failure of another rank. On SLURM, srun also ends the step when a rank fails."""


class Supervisor:
    """Reacts to signals, to failures of other ranks, and to the end of the workflow process of a local job."""

    def __init__(self, work: Work, info: RankInfo, signals: processes.SignalFlags, failures: RankFailures) -> None:
        self.work = work
        self.info = info
        self.signals = signals
        self.failures = failures
        self.folder = work.folder
        self._last_peer_check = time.monotonic()

    def supervise(self, process: subprocess.Popen) -> int:
        """Wait until the program ends, and return its exit status.

        If the job is requeued or stopped, this process exits.

        Raises:
            RankFailed: The job had to be requeued, but SLURM refused.
        """
        while True:
            try:
                return process.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                pass
            if self.signals.save_requested:
                self.signals.save_requested = not self._save(process)
            if self.signals.stop_requested:
                self.stop(process)
            self.exit_if_abandoned(process)

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
            failed = self.failures.record(refused, reason=requeue.reason_of(refused))
            if process is not None:
                processes.stop(process, 0)
            raise failed
        requeue.wait_for_step_end(process)
        sys.exit(EXIT_STOPPED)

    def stop(self, process: subprocess.Popen | None) -> None:
        """Handle SIGTERM: save and requeue if the job was preempted without SIGUSR2, otherwise end this rank.

        If SLURM is not ending the job, the signal came from outside the job, for example from a node that returned
        after a failure. The rank records this before the program ends, so that a failure of another rank that results
        from this stop can be recognized as such.
        """
        deadline = time.monotonic() + STOP_GRACE_SECONDS
        if self.info.cluster == "slurm" and not self.failures.exist():
            status = requeue.query_status(self.info.job_id)
            if status is JobStatus.PREEMPTED:
                self._end_preempted(process)
                return
            if status is not JobStatus.ENDING:
                self.failures.record("stopped by SIGTERM from outside the job", TERMINATED)
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
        raise self.failures.record("stopped because the job was preempted", "PREEMPTED")

    def exit_if_abandoned(self, process: subprocess.Popen | None) -> None:
        """Exit if another rank failed, or if the workflow process of a local job has ended."""
        workflow_process = self.work.head
        if workflow_process is not None and not processes.is_alive(workflow_process.pid, workflow_process.started):
            if process is not None:
                processes.stop(process, STOP_GRACE_SECONDS)
            sys.exit(EXIT_STOPPED)
        since_check = time.monotonic() - self._last_peer_check
        if not self.info.is_distributed or since_check < _PEER_CHECK_SECONDS[self.info.cluster]:
            return
        self._last_peer_check = time.monotonic()
        if self.failures.exist():
            if process is not None:
                processes.stop(process, STOP_GRACE_SECONDS / 2)
            sys.exit(EXIT_STOPPED)
