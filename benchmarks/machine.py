"""The processor that a benchmark runs on, and the load that other programs cause meanwhile."""

from __future__ import annotations

import os
import platform
import resource
import time
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def processor() -> str:
    """Return the processor's name and the number of cores that this process may use, for example `Xeon, 4 cores`."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return f"{next(names, platform.machine())}, {len(os.sched_getaffinity(0))} cores"


def shared_core(core: int) -> bool:
    """Return whether a core is a hyper-thread that shares its execution units with another one.

    A virtual machine may hide this: two of its cores can be hyper-threads of the same physical core.
    """
    path = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    return path.exists() and path.read_text().strip() != str(core)


def cpu_seconds() -> float:
    """Return the CPU time in seconds of this process and its terminated child processes."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


class OtherLoad:
    """Measures how many cores other programs, and other virtual machines, keep busy."""

    def __init__(self) -> None:
        self._start = self._busy_seconds() - cpu_seconds(), time.perf_counter()

    def cores(self) -> float:
        """Return the mean number of busy cores since the object was created, without this process."""
        busy, began = self._start
        return max(0.0, self._busy_seconds() - cpu_seconds() - busy) / (time.perf_counter() - began)

    @staticmethod
    def _busy_seconds() -> float:
        """Return the CPU time of all programs so far, including time that the hypervisor gave to others."""
        user, nice, system, _idle, _wait, irq, softirq, stolen = map(
            int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        )
        return (user + nice + system + irq + softirq + stolen) / _TICKS
