"""How long runs take on the devices that a study asks for, and the chain of runs that takes longest."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from mem.config import Compute
from mem.runs.dag import Run

PEAK_TFLOPS = 790.0
"""bfloat16 matrix rate of an H200, measured."""
UTILISATION = 0.40
"""Share of the peak that a training reaches."""
FP32_SHARE = 1 / 12
"""float32 rate of such a GPU over its bfloat16 rate (67 against 790 TFLOP/s)."""
CPU_UTILISATION = 0.25
"""Share of a CPU's matrix rate that small models reach: see docs/how-to/plan.md."""
READ_GB_PER_S = 1.0
"""How fast cached features come from disk."""
CONVERT_SECONDS = {"photo": 1 / 300, "small": 1 / 2000}
"""Seconds of a core for a picture: a photo is decoded, shrunk and encoded (docs/explanation/convert.md); a small one is copied."""
START_SECONDS = 10.0
"""What each job takes before and after its work: Python, torch, FFCV, records."""


@dataclass(frozen=True)
class Rates:
    """How fast the devices are, and how large."""

    peak_tflops: float = PEAK_TFLOPS
    """Of one GPU, in bfloat16."""
    utilisation: float = UTILISATION
    """Share of it that is reached."""
    core_gflops: float = 0.0
    """float32 matrix rate of a CPU core."""
    device_gb: float = 80.0
    """Memory of a GPU."""

    def flops_per_second(self, compute: Compute, *, bf16: bool) -> float:
        """Of a stage, over all its devices."""
        gpus = compute.nodes * compute.gpus_per_node
        if gpus:
            return gpus * self.peak_tflops * 1e12 * self.utilisation * (1 if bf16 else FP32_SHARE)
        cores = compute.nodes * compute.ranks_per_node * compute.threads
        return cores * self.core_gflops * 1e9 * CPU_UTILISATION


def core_gflops(seconds: float = 0.4) -> float:
    """float32 matrix rate of one core of this machine, measured on the spot."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        side = 768
        a, b = torch.rand(side, side), torch.rand(side, side)
        torch.mm(a, b)
        began, products = time.perf_counter(), 0
        while (spent := time.perf_counter() - began) < seconds:
            torch.mm(a, b)
            products += 1
        return 2 * side**3 * products / spent / 1e9
    finally:
        torch.set_num_threads(threads)


def critical_path(runs: Sequence[Run], hours: Mapping[str, float]) -> tuple[float, list[Run]]:
    """Hours and runs of the chain that takes longest: how long a study takes with as many jobs at once as it likes.

    Args:
        runs: Each after its inputs.
        hours: Of each run, by key.
    """
    done: dict[str, float] = {}
    before: dict[str, Run | None] = {}
    for run in runs:
        last = max(run.inputs.values(), key=lambda r: done[r.key], default=None)
        before[run.key] = last
        done[run.key] = hours[run.key] + (done[last.key] if last else 0.0)
    if not done:
        return 0.0, []
    run: Run | None = max(runs, key=lambda r: done[r.key])
    total, chain = done[run.key], []
    while run is not None:
        chain.append(run)
        run = before[run.key]
    return total, chain[::-1]
