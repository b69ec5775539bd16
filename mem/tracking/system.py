"""What a rank's node and GPU do while a stage runs, under MLflow's own names."""

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

_INTERVAL = "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL"
_SECONDS = 10.0
_PATIENCE = 5.0
"""Seconds that a stage's end waits for a sample that a driver or a network disk holds up."""

Question = Callable[[], Mapping[str, float]]


class SystemMetrics:
    """Logs a rank's metrics every ten seconds from a thread, between entering and leaving.

    The first rank of a node watches the node, each rank its GPU. A stage that is over sooner has no metrics. What
    cannot be told is left out, with a word, once.

    Args:
        log: Takes them, each with the number of the sample as its step; a stage that goes on counts on.
        folder: Whose file system is watched.
        world: This rank.
        part: Stands in the names, where a run in MLflow takes the metrics of several stages.
        seconds: Between two samples.
    """

    def __init__(
        self, log: JsonLines, folder: Path, world: World, part: str = "", seconds: float | None = None
    ) -> None:
        self._log = log
        self._prefix = SYSTEM + (f"{part}/" if part else "") + (f"node_{world.node}/" if world.nodes > 1 else "")
        self._questions = questions(folder, world)
        self._seconds = interval() if seconds is None else seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system metrics", daemon=True)

    def __enter__(self) -> SystemMetrics:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(_PATIENCE)

    def _run(self) -> None:
        self._sample()  # shares of time are those since the last question
        try:
            while not self._over.wait(self._seconds):
                found = {self._prefix + name: round(value, 1) for name, value in self._sample().items()}
                if not self._over.is_set():  # a driver may have held the sample up until after the stage's end
                    self._log.scalars(found, self._log.next_step(self._prefix))
        except OSError as error:
            logger.warning("No more system metrics are logged by this attempt: %s", error)

    def _sample(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, question in list(self._questions.items()):
            try:
                found.update(question())
            except Exception as error:  # drivers and systems raise what they like; none of it may end a stage
                logger.warning("System metrics are without %s: %s: %s", name, type(error).__name__, error)
                del self._questions[name]
        return found


def watched(world: World) -> bool:
    """Whether a rank has anything to watch."""
    return world.local_rank == 0 or world.device.type == "cuda"


def interval() -> float:
    """Seconds between two samples: ten, or what MLflow's variable says.

    Raises:
        UserError: The variable is no positive number.
    """
    given = os.environ.get(_INTERVAL)
    try:
        seconds = float(given) if given else _SECONDS
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise UserError(f"{_INTERVAL} is {given!r}; it is the seconds between two samples, a number above 0.")
    return seconds


def questions(folder: Path, world: World) -> dict[str, Question]:
    """What is asked at each sample, by what it is about."""
    asked: dict[str, Question] = {}
    if world.local_rank == 0:
        asked = {"processor": _processor, "memory": _memory, "disk": lambda: _disk(folder), "network": _Network()}
    if world.device.type == "cuda":
        gpu = f"gpu_{world.local_rank}"
        asked |= {f"{gpu}'s {name}": _of_gpu(gpu, ask, world.device) for name, ask in _GPU.items()}
    return asked


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
    """Traffic since the first question; a container may have no network."""

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


def _gpu_use(device: torch.device) -> Mapping[str, float]:
    return {"utilization_percentage": float(torch.cuda.utilization(device))}


def _gpu_power(device: torch.device) -> Mapping[str, float]:
    return {"power_usage_watts": torch.cuda.power_draw(device) / 1000}


_GPU = {"memory": _gpu_memory, "use": _gpu_use, "power": _gpu_power}


def _of_gpu(gpu: str, ask: Callable[[torch.device], Mapping[str, float]], device: torch.device) -> Question:
    return lambda: {f"{gpu}_{name}": value for name, value in ask(device).items()}
