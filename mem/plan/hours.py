"""Run times: rates of the devices that a study requests, and the chain of dependent runs that takes the longest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mem.config import Compute
from mem.plan.gpu_benchmark import GpuBenchmark
from mem.runs.dag import Run

PEAK_TFLOPS = 790.0
"""Measured bfloat16 matrix-product rate of an H200."""
UTILISATION = 0.40
"""Share of the peak rate that training reaches."""
FP32_SHARE = 1 / 12
"""float32 rate of an H200 divided by its bfloat16 rate (67 and 790 TFLOP/s)."""
CPU_UTILISATION = 0.25
"""Share of a CPU's matrix-product rate that small models reach (see docs/how-to/plan.md)."""
READ_GB_PER_S = 1.0
"""Disk throughput in GB/s when stored features are read."""
CONVERT_SECONDS = {"photo": 1 / 300, "small": 1 / 2000}
"""Core-seconds required to convert an image. A photograph is decoded, resized and encoded
(docs/explanation/convert.md); a small image is copied."""
JOB_OVERHEAD_SECONDS = 10.0
"""Overhead of a job: starting Python, importing torch and FFCV, writing records."""


@dataclass(frozen=True)
class CoreRate:
    """Measured matrix-product rate of a CPU core, and how busy the machine was during the measurement."""

    gflops: float
    """float32 rate per second of CPU time, in GFLOP/s."""
    load: float
    """Load average over the last minute: the number of processes that ran or waited for a core."""
    cores: int
    """Number of cores of the machine."""
    share: float
    """CPU time of the measurement divided by its duration; less than 1 if it shared a core with other processes."""
    date: str | None = None
    """Date of an earlier measurement; None if the rate was measured for this plan."""

    @property
    def busy(self) -> bool:
        """Whether other processes may have slowed down the measurement."""
        return self.load > self.cores - 0.5 or self.share < 0.9


@dataclass(frozen=True)
class Rates:
    """Rates and memory of the devices."""

    peak_tflops: float = PEAK_TFLOPS
    """Matrix-product rate of one GPU in bfloat16."""
    utilisation: float = UTILISATION
    """Share of the peak rate that training reaches."""
    core_gflops: float = 0.0
    """float32 matrix-product rate of a CPU core."""
    device_gb: float = 80.0
    """Memory of a GPU."""
    measured: CoreRate | None = None
    """Measurement that `core_gflops` is from; None if the user specified the rate."""
    gpu: GpuBenchmark | None = None
    """Measurement of a GPU, whose rates replace the assumed ones; None if there is none."""

    def flops_per_second(self, compute: Compute, *, bf16: bool) -> float:
        """Return the total rate of all devices of a stage."""
        gpus = compute.nodes * compute.gpus_per_node
        if gpus:
            return gpus * self.peak_tflops * 1e12 * self.utilisation * (1 if bf16 else FP32_SHARE)
        cores = compute.nodes * compute.ranks_per_node * compute.threads
        return cores * self.core_gflops * 1e9 * CPU_UTILISATION


def critical_path(runs: Sequence[Run], hours: Mapping[str, float]) -> tuple[float, list[Run]]:
    """Return the total hours and the runs of the chain of dependent runs that takes the longest.

    If jobs run in parallel wherever possible, the study takes this many hours.

    Args:
        runs: The runs in topological order.
        hours: Duration of each run in hours, by run key.
    """
    finished_after: dict[str, float] = {}
    predecessor: dict[str, Run | None] = {}
    for run in runs:
        last_input = max(run.inputs.values(), key=lambda r: finished_after[r.key], default=None)
        predecessor[run.key] = last_input
        finished_after[run.key] = hours[run.key] + (finished_after[last_input.key] if last_input else 0.0)
    if not finished_after:
        return 0.0, []
    run: Run | None = max(runs, key=lambda r: finished_after[r.key])
    total, chain = finished_after[run.key], []
    while run is not None:
        chain.append(run)
        run = predecessor[run.key]
    return total, chain[::-1]
