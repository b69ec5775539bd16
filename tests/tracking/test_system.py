"""System metrics: utilisation of nodes and GPUs, logged together with the curves."""

from __future__ import annotations

import contextlib
import threading
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch

from mem.distributed import World
from mem.errors import UserError
from mem.jobs import job
from mem.runs.folder import RunFolder
from mem.tracking import system
from mem.tracking.log import JsonLines, NullLog, read_events
from mem.tracking.system import SystemMetrics
from tests.waiting import wait

NODE_METRICS = {
    "cpu_utilization_percentage", "system_memory_usage_megabytes", "system_memory_usage_percentage",
    "disk_usage_percentage", "disk_usage_megabytes", "disk_available_megabytes",
}  # fmt: skip
CUDA = torch.device("cuda", 1)


def samples(path: Path) -> list[dict]:
    return [event for event in read_events(path) if event["event"] == "metrics"]


def measure(path: Path, world: World | None = None, part: str = "", count: int = 1) -> dict[str, float]:
    """Log `count` measurements and return the metrics of the last one."""
    with JsonLines(path) as log, SystemMetrics(log, path.parent, world or World(), part, seconds=0.05):
        expected = len(samples(path)) + count
        wait(lambda: len(samples(path)) >= expected)
    return samples(path)[-1]["metrics"]


def test_a_node_has_mlflows_metric_names_and_a_resumed_log_continues_counting(tmp_path):
    path = tmp_path / "log.jsonl"
    measure(path, count=3)
    found = measure(path, count=2)
    assert [event["step"] for event in samples(path)] == list(range(len(samples(path))))
    assert {f"system/{name}" for name in NODE_METRICS} <= set(found)


def test_values_of_psutil_are_logged(tmp_path, monkeypatch):
    monkeypatch.setattr(psutil, "cpu_percent", lambda: 37.04)
    monkeypatch.setattr(psutil, "net_io_counters", lambda: None)
    found = measure(tmp_path / "log.jsonl")
    assert found["system/cpu_utilization_percentage"] == 37.0
    assert set(found) == {f"system/{name}" for name in NODE_METRICS}
    assert found["system/disk_available_megabytes"] == pytest.approx(psutil.disk_usage(str(tmp_path)).free / 1e6, 0.05)


def test_names_contain_the_node_if_there_are_several_and_the_part_of_an_evaluation(tmp_path):
    second = World(rank=2, size=4, local_rank=0, local_size=2)
    assert all(name.startswith("system/node_1/") for name in measure(tmp_path / "log.jsonl", second))
    assert all(name.startswith("system/evaluate/") for name in measure(tmp_path / "e.jsonl", part="evaluate"))


@pytest.fixture
def gpus(monkeypatch):
    """A driver whose second GPU does not report its power."""

    def power(device: torch.device) -> int:
        if device.index == 1:
            raise RuntimeError("Not Supported")
        return 350_000

    monkeypatch.setattr(torch.cuda, "device_memory_used", lambda device: 20e9 * (device.index + 1))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: type("P", (), {"total_memory": 80e9}))
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: 97 - device.index)
    monkeypatch.setattr(torch.cuda, "power_draw", power)


def test_each_rank_measures_its_gpu_and_the_first_also_the_node(gpus, tmp_path):
    first = measure(tmp_path / "0.jsonl", World(0, 2, torch.device("cuda", 0), 0, 2))
    assert {name: value for name, value in first.items() if "gpu" in name} == {
        "system/gpu_0_memory_usage_percentage": 25.0,
        "system/gpu_0_memory_usage_megabytes": 20000.0,
        "system/gpu_0_utilization_percentage": 97.0,
        "system/gpu_0_power_usage_watts": 350.0,
    }
    assert "system/cpu_utilization_percentage" in first
    assert measure(tmp_path / "1.jsonl", World(1, 2, CUDA, 1, 2)) == {
        "system/gpu_1_memory_usage_percentage": 50.0,
        "system/gpu_1_memory_usage_megabytes": 40000.0,
        "system/gpu_1_utilization_percentage": 96.0,
    }


def test_a_metric_that_is_not_available_is_omitted_after_one_warning(gpus, tmp_path, caplog):
    measure(tmp_path / "log.jsonl", World(1, 2, CUDA, 1, 2), count=3)
    assert [r.getMessage() for r in caplog.records] == [
        "System metrics of gpu_1's power are not available: RuntimeError: Not Supported"
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_real_gpu_reports_memory_and_utilisation(tmp_path):
    tensor = torch.ones(2**28, device="cuda")
    found = measure(tmp_path / "log.jsonl", World(device=torch.device("cuda", 0)))
    assert found["system/gpu_0_memory_usage_megabytes"] > tensor.nbytes / 1e6
    assert 0 <= found["system/gpu_0_utilization_percentage"] <= 100


@pytest.mark.parametrize(
    ("world", "file"),
    [
        (World(), "log.jsonl"),
        (World(0, 4, local_rank=0, local_size=2), "log.jsonl"),
        (World(2, 4, local_rank=0, local_size=2), "rank-2-01234567.jsonl"),
        (World(3, 4, CUDA, 1, 2), "rank-3-01234567.jsonl"),
        (World(3, 4, local_rank=1, local_size=2), None),
    ],
)
def test_only_ranks_that_measure_something_write_a_log(world, file, gpus, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "SystemMetrics", partial(SystemMetrics, seconds=0.05))
    monkeypatch.setattr(World, "from_main", lambda self, value: value or "0123456789abcdef")
    folder = RunFolder(tmp_path)
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(JsonLines(folder.log)) if world.is_main else NullLog()
        job._start_system_metrics(folder, "pretrain", world, log, stack)
        if file is not None:
            wait(lambda: (tmp_path / file).exists() and samples(tmp_path / file))
    assert {path.name for path in tmp_path.iterdir()} == ({file} if file else set())
    if file and not world.is_main:
        assert list(read_events(tmp_path / file))[1]["log"] == "0123456789abcdef"


def test_a_rank_with_a_damaged_log_continues_without_metrics(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(World, "from_main", lambda self, value: "0123456789abcdef")
    folder = RunFolder(tmp_path)
    folder.rank_log(2, "01234567").write_text('{"event": "log", "id": "a"}\n{"event": "met\n')
    with contextlib.ExitStack() as stack:
        job._start_system_metrics(folder, "pretrain", World(2, 4, local_size=2), NullLog(), stack)
    assert "Rank 2 does not log system metrics" in caplog.text


def test_a_full_disk_stops_the_metrics_with_a_warning_but_not_the_stage(tmp_path, monkeypatch, caplog):
    def raise_disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with JsonLines(tmp_path / "log.jsonl") as log:
        monkeypatch.setattr(log, "scalars", raise_disk_full)
        with SystemMetrics(log, tmp_path, World(), seconds=0.01):
            wait(lambda: "No space left on device" in caplog.text)
    assert "System metrics are no longer logged in this attempt" in caplog.text


def test_a_hanging_driver_does_not_delay_the_end_and_its_late_result_is_not_logged(tmp_path, monkeypatch):
    called, release = threading.Event(), threading.Event()
    calls = iter(range(100))

    def hang() -> float:
        if next(calls):  # the first call only sets psutil's reference time
            called.set()
            release.wait(60)
        return 0.0

    monkeypatch.setattr(psutil, "cpu_percent", hang)
    monkeypatch.setattr(system, "_JOIN_SECONDS", 0.1)
    path = tmp_path / "log.jsonl"
    with JsonLines(path) as log:
        with SystemMetrics(log, tmp_path, World(), seconds=0.01) as metrics:
            assert called.wait(30)
        assert metrics._thread.is_alive()
        release.set()
        metrics._thread.join(30)
    assert not samples(path)


@pytest.mark.parametrize(("given", "seconds"), [(None, 10.0), ("", 10.0), ("0.5", 0.5)])
def test_the_interval_is_that_of_mlflows_variable(given, seconds, monkeypatch):
    monkeypatch.delenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", raising=False)
    if given is not None:
        monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", given)
    assert system.interval_seconds() == seconds


@pytest.mark.parametrize("given", ["often", "0", "-1", "nan"])
def test_an_invalid_interval_is_refused(given, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", given)
    with pytest.raises(UserError, match="Set it to the number of seconds between two samples"):
        system.interval_seconds()
