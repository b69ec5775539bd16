"""What a node does while a stage runs: processor, memory, disk, network and GPUs, under MLflow's own names."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Any

import psutil
import pynvml

from mem.tracking.log import SYSTEM, JsonLines

logger = logging.getLogger("mem")

SECONDS = 10.0
"""Between two samples, as in MLflow. A stage that is over sooner has none."""


class SystemMetrics:
    """Logs a node's metrics every `seconds` from a thread, between entering and leaving.

    Args:
        log: Takes them, each with the number of the sample as its step; a stage that goes on counts on.
        folder: Whose file system is watched.
        part: Stands in the names, where a run in MLflow takes the metrics of several nodes or stages.
        seconds: Between two samples.
    """

    def __init__(self, log: JsonLines, folder: Path, part: str | None = None, seconds: float = SECONDS) -> None:
        self._log = log
        self._folder = folder
        self._prefix = SYSTEM if part is None else f"{SYSTEM}{part}/"
        self._seconds = seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system metrics", daemon=True)

    def __enter__(self) -> SystemMetrics:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            gpus = visible_gpus()
            network = psutil.net_io_counters()
            psutil.cpu_percent()  # the next call gives the mean since this one
            while not self._over.wait(self._seconds):
                found = {**_of_host(self._folder, network), **_of_gpus(gpus)}
                step = self._log.next_step(self._prefix)
                self._log.scalars({self._prefix + name: round(value, 1) for name, value in found.items()}, step)
        except (OSError, psutil.Error, pynvml.NVMLError) as error:
            logger.warning("No more system metrics are logged by this attempt: %s", error)


def _of_host(folder: Path, since: Any) -> dict[str, float]:
    memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(folder))
    found = {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / 1e6,
        "system_memory_usage_percentage": 100 * memory.used / memory.total,
        "disk_usage_percentage": disk.percent,
        "disk_usage_megabytes": disk.used / 1e6,
        "disk_available_megabytes": disk.free / 1e6,
    }
    network = psutil.net_io_counters()
    if network is not None and since is not None:  # a container may have none
        found["network_receive_megabytes"] = (network.bytes_recv - since.bytes_recv) / 1e6
        found["network_transmit_megabytes"] = (network.bytes_sent - since.bytes_sent) / 1e6
    return found


def visible_gpus() -> list[Any]:
    """NVML's handles of the GPUs that CUDA_VISIBLE_DEVICES leaves, or of all; none without a driver."""
    try:
        pynvml.nvmlInit()
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
        if chosen is None:
            return [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        names = [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
        return [
            pynvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else pynvml.nvmlDeviceGetHandleByUUID(name)
            for name in names
        ]
    except pynvml.NVMLError:
        return []


def _of_gpus(gpus: list[Any]) -> dict[str, float]:
    """What each GPU tells; some do not tell their use or their power."""
    found: dict[str, float] = {}
    for number, gpu in enumerate(gpus):
        for question in (_gpu_memory, _gpu_use, _gpu_power):
            try:
                found.update({f"gpu_{number}_{name}": value for name, value in question(gpu).items()})
            except pynvml.NVMLError as error:
                if error.value != pynvml.NVML_ERROR_NOT_SUPPORTED:  # pyright: ignore[reportAttributeAccessIssue]
                    raise
    return found


def _gpu_memory(gpu: Any) -> dict[str, float]:
    memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
    used, total = float(memory.used), float(memory.total)
    return {"memory_usage_percentage": 100 * used / total, "memory_usage_megabytes": used / 1e6}


def _gpu_use(gpu: Any) -> dict[str, float]:
    return {"utilization_percentage": float(pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu)}


def _gpu_power(gpu: Any) -> dict[str, float]:
    watts = pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000
    return {
        "power_usage_watts": watts,
        "power_usage_percentage": 100_000 * watts / pynvml.nvmlDeviceGetEnforcedPowerLimit(gpu),
    }
