"""Faults for soak.py: SLURM commands that fail, preemptions, restarts and crashes of daemons, all from one seed."""

from __future__ import annotations

import random
import shlex
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from cluster.throwaway import ThrowawayError, ThrowawaySlurm
from cluster.throwaway.daemons import wait_until

CALLS_PER_FAILURE = 10
_CONTROLLER = "Unable to contact slurm controller (connect failure)"
_SOCKET = "Socket timed out on send/recv operation"
MESSAGES = {
    "sbatch": [f"sbatch: error: Batch job submission failed: {_SOCKET}"],
    "squeue": [f"slurm_load_jobs error: {_CONTROLLER}"],
    "sacct": ["sacct: error: Sending PersistInit msg: Connection refused",
              "sacct: error: Problem talking to the database: Connection refused"],
    "scontrol": [f"slurm_load_jobs error: {_SOCKET}"],
    "scancel": [f"scancel: error: Kill job error on job id 0: {_SOCKET}"],
}  # fmt: skip
"""Error output of the client commands of SLURM 22.05 while a daemon does not respond."""
WRAPPER = """\
#!/bin/sh
# Runs {name}. Every {period}th call fails.
folder={folder}
count="$folder/{name}.count"
number=$( (flock 9; n=$(($(cat "$count") + 1)); echo $n > "$count"; echo $n) 9> "$folder/{name}.lock")
log() {{ echo "$(date +%s.%N | cut -c1-14) $*" >> "$folder/../faults.txt"; }}
fail() {{ printf '%s\\n' {messages} >&2; exit 1; }}
"""
FAIL = """\
[ $((number % {period})) -ne 0 ] || {{ log "{name} call $number fails: $*"; fail; }}
exec {program} "$@"
"""
FAIL_SBATCH = """\
if mv "$folder/kill-before" "$folder/killed.$number" 2> /dev/null; then
    log "workflow process killed before sbatch call $number"
    kill -KILL "$(cat "$folder/workflow.pid")"
fi
[ $((number % (2 * {period}))) -ne {period} ] || {{ log "sbatch call $number fails"; fail; }}
out=$({program} "$@")
status=$?
if mv "$folder/kill-after" "$folder/killed.$number" 2> /dev/null; then
    log "workflow process killed after sbatch call $number: $out"
    kill -KILL "$(cat "$folder/workflow.pid")"
fi
[ $((number % (2 * {period}))) -ne 0 ] || {{ log "sbatch call $number is accepted, but fails: $out"; fail; }}
echo "$out"
exit $status
"""
"""sbatch also kills the workflow process, on demand. Every second failure occurs after SLURM accepted the job."""
PERIOD_MINUTES = {"preemption": 5, "node crash": 10, "slurmd kill": 10, "slurmd restart": 10, "slurmctld restart": 10}
"""Average time between two faults of each kind. Each kind occurs at least once."""
_RUNNING_SECONDS = 90
_CRASH_SECONDS = (11.0, 30.0)
"""Range of the time for a reboot. SLURM is slow to notice the end of jobs younger than BatchStartTimeout (10 s)."""


def write_wrappers(folder: Path) -> None:
    """Create a folder of wrapper scripts for SLURM's client commands, to be placed first on PATH."""
    folder.mkdir()
    quoted = shlex.quote(str(folder))
    for name, lines in MESSAGES.items():
        (folder / f"{name}.count").write_text("0\n")
        text = WRAPPER + (FAIL_SBATCH if name == "sbatch" else FAIL)
        messages = " ".join(f"'{line}'" for line in lines)
        program = shutil.which(name)
        path = folder / name
        path.write_text(
            text.format(name=name, folder=quoted, messages=messages, program=program, period=CALLS_PER_FAILURE)
        )
        path.chmod(0o755)


def calls(folder: Path) -> dict[str, int]:
    """Return the number of calls of each client command."""
    return {name: int((folder / f"{name}.count").read_text()) for name in MESSAGES}


class Faults(threading.Thread):
    """A thread that causes faults of SLURM, one after the other, at times that the seed determines."""

    def __init__(self, slurm: ThrowawaySlurm, folder: Path, seconds: float, seed: int) -> None:
        super().__init__(daemon=True)
        self.slurm = slurm
        self.folder = folder
        self.injected: Counter[str] = Counter()
        self.problems: list[str] = []
        self.crashes: list[float] = []
        """Times of the node crashes, in seconds since the epoch."""
        self._random = random.Random(seed)
        self._began = time.monotonic()
        self._stop_requested = threading.Event()
        self._schedule = self._make_schedule(seconds)

    def log(self, text: str) -> None:
        """Append a line with a time stamp to `faults.txt`."""
        with open(self.folder / "faults.txt", "a") as file:
            file.write(f"{time.time():.3f} {text}\n")

    def stop(self) -> None:
        """Cause no more faults, and wait until the current one has ended."""
        self._stop_requested.set()
        self.join()

    def run(self) -> None:
        """Cause the scheduled faults."""
        causes: dict[str, Callable[[], None]] = {
            "preemption": self._preempt,
            "node crash": self._crash_node,
            "slurmd kill": lambda: self._restart_slurmd(signal.SIGKILL),
            "slurmd restart": lambda: self._restart_slurmd(signal.SIGTERM),
            "slurmctld restart": self._restart_slurmctld,
        }
        for at, kind in self._schedule:
            if self._stop_requested.wait(max(0.0, self._began + at - time.monotonic())):
                return
            try:
                causes[kind]()
                self.injected[kind] += 1
            except (ThrowawayError, OSError, TimeoutError) as error:
                self.problems.append(f"{kind}: {error}")
                self.log(f"{kind}: {error}")

    def _make_schedule(self, seconds: float) -> list[tuple[float, str]]:
        """Return times and kinds of faults: one fault at a random moment of each of several equal intervals."""
        kinds = [kind for kind, minutes in PERIOD_MINUTES.items() for _ in range(max(1, round(seconds / 60 / minutes)))]
        self._random.shuffle(kinds)
        interval = 0.85 * seconds / len(kinds)
        return [((index + 0.2 + 0.6 * self._random.random()) * interval, kind) for index, kind in enumerate(kinds)]

    def _preempt(self) -> None:
        seconds = self._random.randint(3, 12)
        script = f"--wrap=sleep {seconds}"
        job = self.slurm.run(
            "sbatch", "--parsable", "-p", "urgent", "-N2", "--exclusive", "-J", "urgent", "-o", "/dev/null",
            "-D", str(self.folder), script,
        )  # fmt: skip
        self.log(f"preemption: urgent job {job} takes both nodes for {seconds} s")
        wait_until(lambda: self._state(job) not in ("PENDING", "CONFIGURING"), _RUNNING_SECONDS, "urgent job pending")
        self.log("preemption: the urgent job runs")
        wait_until(lambda: self._state(job) in ("", "COMPLETED", "COMPLETING"), _RUNNING_SECONDS, "urgent job runs")
        self.log("preemption: the urgent job has ended")

    def _state(self, job: str) -> str:
        return self.slurm.run("squeue", "-h", "-j", job, "-o", "%T", check=False)

    def _crash_node(self) -> None:
        node, pause = self._random.choice(self.slurm.nodes), self._random.uniform(*_CRASH_SECONDS)
        self.log(f"node crash: slurmd and all jobs of {node} are killed; restart in {pause:.1f} s")
        self.crashes.append(time.time())
        self.slurm.kill_slurmd(node)
        time.sleep(pause)
        self.slurm.start_slurmd(node, rebooted=True)
        self.log(f"node crash: {node} is up again")

    def _restart_slurmd(self, number: signal.Signals) -> None:
        node, pause = self._random.choice(self.slurm.nodes), self._random.uniform(0.5, 6)
        self.log(f"slurmd of {node} is stopped with {number.name}; restart in {pause:.1f} s")
        self.slurm.stop_slurmd(node, number)
        time.sleep(pause)
        self.slurm.start_slurmd(node)
        self.log(f"slurmd of {node} is up again")

    def _restart_slurmctld(self) -> None:
        self.log("slurmctld restart")
        self.slurm.restart_slurmctld()
        self.log("slurmctld restart: slurmctld responds")
