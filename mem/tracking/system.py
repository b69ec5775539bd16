"""System metrics: utilisation of a rank's node and GPU while a stage runs, with MLflow's metric names."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

from mem.distributed import World
from mem.errors import UserError
from mem.tracking.log import SYSTEM, JsonLines

logger = logging.getLogger("mem")

_INTERVAL_VARIABLE = "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL"
_DEFAULT_INTERVAL_SECONDS = 10.0
_JOIN_SECONDS = 5.0
"""Maximum time that a stage waits at its end for a measurement that a driver or a network file system delays."""

Probe = Callable[[], Mapping[str, float]]
"""Function that measures metrics and returns them by name."""


class SystemMetrics:
    """Logs the system metrics of a rank from a thread while the context is active.

    The first rank of a node measures the node, and each rank measures its GPU. A stage that is shorter than the
    interval has no system metrics. A metric that cannot be measured is omitted after one warning.

    Args:
        log: Log that receives the metrics. The step is the index of the measurement and continues after a resume.
        folder: Folder whose file system is measured.
        world: Rank info of this process.
        part: Component of the metric names that distinguishes stages whose metrics are sent to the same MLflow run.
        seconds: Interval between measurements in seconds. Default: `interval_seconds()`.
    """

    def __init__(
        self, log: JsonLines, folder: Path, world: World, part: str = "", seconds: float | None = None
    ) -> None:
        self._log = log
        self._prefix = SYSTEM + (f"{part}/" if part else "") + (f"node_{world.node}/" if world.nodes > 1 else "")
        self._probes = probes(folder, world)
        self._seconds = interval_seconds() if seconds is None else seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system metrics", daemon=True)

    def __enter__(self) -> SystemMetrics:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(_JOIN_SECONDS)

    def _run(self) -> None:
        self._measure()  # psutil measures CPU utilisation since the previous call
        try:
            while not self._stop.wait(self._seconds):
                metrics = {self._prefix + name: round(value, 1) for name, value in self._measure().items()}
                if not self._stop.is_set():  # a driver may delay the measurement beyond the end of the stage
                    self._log.scalars(metrics, self._log.next_step(self._prefix))
        except OSError as error:
            logger.warning("System metrics are no longer logged in this attempt: %s", error)

    def _measure(self) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for name, probe in list(self._probes.items()):
            try:
                metrics.update(probe())
            except Exception as error:  # drivers raise many types of exceptions, and none of them may stop a stage
                logger.warning("System metrics of %s are not available: %s: %s", name, type(error).__name__, error)
                del self._probes[name]
        return metrics


def has_system_metrics(world: World) -> bool:
    """Return whether a rank measures any system metrics."""
    return world.local_rank == 0 or world.device.type == "cuda"


def interval_seconds() -> float:
    """Return the seconds between two measurements: ten, or the value of MLflow's environment variable.

    Raises:
        UserError: The value of the environment variable is not a positive number.
    """
    value = os.environ.get(_INTERVAL_VARIABLE)
    try:
        seconds = float(value) if value else _DEFAULT_INTERVAL_SECONDS
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise UserError(
            f"{_INTERVAL_VARIABLE} is {value!r}. Set it to the number of seconds between two samples, above 0."
        )
    return seconds


def probes(folder: Path, world: World) -> dict[str, Probe]:
    """Return the probes of a rank by the name of the measured quantity."""
    found: dict[str, Probe] = {}
    if world.local_rank == 0:
        found = {"processor": _processor, "memory": _memory, "disk": lambda: _disk(folder), "network": _Network()}
    if world.device.type == "cuda":
        gpu = f"gpu_{world.local_rank}"
        found |= {f"{gpu}'s {name}": _gpu_probe(gpu, measure, world.device) for name, measure in _GPU.items()}
    return found


def _processor() -> Mapping[str, float]:
    return {"cpu_utilization_percentage": psutil.cpu_percent()}


def _memory() -> Mapping[str, float]:
    memory = psutil.virtual_memory()
    return {
        "system_memory_usage_megabytes": memory.used / 1e6,
        "system_memory_usage_percentage": 100 * memory.used / memory.total,
    }


def _disk(folder: Path) -> Mapping[str, float]:
    disk = psutil.disk_usage(str(folder))
    return {
        "disk_usage_percentage": disk.percent,
        "disk_usage_megabytes": disk.used / 1e6,
        "disk_available_megabytes": disk.free / 1e6,
    }


class _Network:
    """Probe for the network traffic since the first call. It returns no metrics in a container without a network."""

    def __init__(self) -> None:
        self._first: Any = None

    def __call__(self) -> Mapping[str, float]:
        now = psutil.net_io_counters()
        if now is None:
            return {}
        self._first = self._first or now
        return {
            "network_receive_megabytes": (now.bytes_recv - self._first.bytes_recv) / 1e6,
            "network_transmit_megabytes": (now.bytes_sent - self._first.bytes_sent) / 1e6,
        }


def _gpu_memory(device: torch.device) -> Mapping[str, float]:
    used, total = torch.cuda.device_memory_used(device), torch.cuda.get_device_properties(device).total_memory
    return {"memory_usage_percentage": 100 * used / total, "memory_usage_megabytes": used / 1e6}


def _gpu_utilization(device: torch.device) -> Mapping[str, float]:
    return {"utilization_percentage": float(torch.cuda.utilization(device))}


def _gpu_power(device: torch.device) -> Mapping[str, float]:
    return {"power_usage_watts": torch.cuda.power_draw(device) / 1000}


_GPU = {"memory": _gpu_memory, "utilization": _gpu_utilization, "power": _gpu_power}


def _gpu_probe(gpu: str, measure: Callable[[torch.device], Mapping[str, float]], device: torch.device) -> Probe:
    return lambda: {f"{gpu}_{name}": value for name, value in measure(device).items()}
