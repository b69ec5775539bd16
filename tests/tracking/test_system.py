"""What nodes do, beside the curves."""

from __future__ import annotations

import contextlib
import time
from functools import partial
from types import SimpleNamespace

import pynvml
import pytest

from mem.distributed import World
from mem.runfolder import RunFolder
from mem.stages import job
from mem.tracking import system
from mem.tracking.log import JsonLines, Silent, read_events
from mem.tracking.system import SystemMetrics
from tests.waiting import wait


def samples(path) -> list[dict]:
    return [event for event in read_events(path) if event["event"] == "metrics"]


def watch(path, part=None, count=3) -> None:
    with JsonLines(path) as log, SystemMetrics(log, path.parent, part, seconds=0.05):
        wanted = len(samples(path)) + count
        wait(lambda: len(samples(path)) >= wanted)


def test_a_node_is_watched_under_mlflows_names_and_counts_on_when_it_goes_on(tmp_path):
    path = tmp_path / "log.jsonl"
    watch(path)
    watch(path)
    found = samples(path)
    assert [event["step"] for event in found] == list(range(len(found)))
    assert {
        "system/cpu_utilization_percentage",
        "system/system_memory_usage_megabytes",
        "system/disk_available_megabytes",
    } <= set(found[0]["metrics"])
    assert all(0 <= event["metrics"]["system/system_memory_usage_percentage"] <= 100 for event in found)


def test_several_nodes_have_names_of_their_own(tmp_path):
    watch(tmp_path / "node-1.jsonl", "node_1", count=1)
    assert all(name.startswith("system/node_1/") for name in samples(tmp_path / "node-1.jsonl")[0]["metrics"])


@pytest.mark.parametrize(
    ("stage", "world", "file", "name"),
    [
        ("pretrain", World(), "log.jsonl", "system/cpu"),
        ("evaluate", World(), "log.jsonl", "system/evaluate/cpu"),
        ("pretrain", World(0, 4, local_rank=0, local_size=2), "log.jsonl", "system/node_0/cpu"),
        ("pretrain", World(2, 4, local_rank=0, local_size=2), "node-1.jsonl", "system/node_1/cpu"),
        ("pretrain", World(3, 4, local_rank=1, local_size=2), None, None),
    ],
)
def test_the_first_rank_of_each_node_watches_it(stage, world, file, name, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "SystemMetrics", partial(SystemMetrics, seconds=0.05))
    folder = RunFolder(tmp_path)
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(JsonLines(folder.log)) if world.is_main else Silent()
        job._watch_node(folder, stage, world, log, stack)
        if file is not None:
            wait(lambda: (tmp_path / file).exists() and samples(tmp_path / file))
    written = {path.name for path in tmp_path.iterdir()}
    assert written == ({file} if file else set())
    assert file is None or f"{name}_utilization_percentage" in samples(tmp_path / file)[0]["metrics"]


def test_a_busy_processor_is_seen(tmp_path):
    path = tmp_path / "log.jsonl"
    with JsonLines(path) as log, SystemMetrics(log, tmp_path, seconds=0.5):
        end = time.monotonic() + 1.2
        while time.monotonic() < end:
            sum(range(10_000))
    assert samples(path)[0]["metrics"]["system/cpu_utilization_percentage"] > 0


@pytest.fixture
def two_gpus(monkeypatch):
    """A driver with two GPUs, of which the second does not tell its power."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def power(gpu: int) -> int:
        if gpu == 1:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return 350_000

    answers = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda i: i,
        "nvmlDeviceGetHandleByUUID": lambda name: {"GPU-b": 1}[name],
        "nvmlDeviceGetMemoryInfo": lambda gpu: SimpleNamespace(used=20e9 * (gpu + 1), total=80e9),
        "nvmlDeviceGetUtilizationRates": lambda gpu: SimpleNamespace(gpu=97 - gpu),
        "nvmlDeviceGetPowerUsage": power,
        "nvmlDeviceGetEnforcedPowerLimit": lambda gpu: 700_000,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, answer)


def test_gpus_tell_what_they_can(two_gpus, tmp_path):
    watch(tmp_path / "log.jsonl", count=1)
    found = samples(tmp_path / "log.jsonl")[0]["metrics"]
    assert {name: value for name, value in found.items() if "gpu" in name} == {
        "system/gpu_0_memory_usage_percentage": 25.0,
        "system/gpu_0_memory_usage_megabytes": 20000.0,
        "system/gpu_0_utilization_percentage": 97.0,
        "system/gpu_0_power_usage_watts": 350.0,
        "system/gpu_0_power_usage_percentage": 50.0,
        "system/gpu_1_memory_usage_percentage": 50.0,
        "system/gpu_1_memory_usage_megabytes": 40000.0,
        "system/gpu_1_utilization_percentage": 96.0,
    }


@pytest.mark.parametrize(("visible", "expected"), [("1", [1]), ("GPU-b,0", [1, 0]), ("", []), ("-1", [])])
def test_only_the_jobs_gpus_are_watched(two_gpus, monkeypatch, visible, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert system.visible_gpus() == expected


def test_without_a_driver_there_are_no_gpus(monkeypatch):
    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    assert system.visible_gpus() == []


def test_a_full_disk_ends_the_watching_with_a_word_and_not_the_stage(tmp_path, monkeypatch, caplog):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "log.jsonl"
    with JsonLines(path) as log:
        monkeypatch.setattr(log, "scalars", full)
        monkeypatch.setattr(system.logger, "propagate", True)
        with SystemMetrics(log, tmp_path, seconds=0.01):
            wait(lambda: "No space left on device" in caplog.text)
    assert "No more system metrics are logged by this attempt" in caplog.text
