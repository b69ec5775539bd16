"""Device rates, and the longest chain of runs."""

from __future__ import annotations

import pytest

from mem.plan.core_rate import measure_core
from mem.plan.hours import CoreRate, critical_path
from mem.runs.dag import Run


def run(stage: str, hours: float, *inputs: Run) -> tuple[Run, float]:
    settings = {"hours": int(1000 * hours)}
    return Run(stage, "d", "b", settings, {str(i): parent for i, parent in enumerate(inputs)}, {}), hours


def test_the_longest_chain_has_the_most_hours_not_the_most_runs():
    images, one = run("convert", 1)
    short, two = run("finetune", 2, images)
    long, nine = run("pretrain", 9, images)
    after_short, four = run("features", 4, short)
    end, half = run("report", 0.5, after_short, long)
    hours = {images.key: one, short.key: two, long.key: nine, after_short.key: four, end.key: half}
    total, chain = critical_path([images, short, long, after_short, end], hours)
    assert total == 10.5
    assert chain == [images, long, end]
    hours[after_short.key] = 8
    assert critical_path([images, short, long, after_short, end], hours) == (11.5, [images, short, after_short, end])


def test_the_rate_of_a_core_is_measured_with_the_load_of_the_machine(monkeypatch):
    monkeypatch.setattr("os.getloadavg", lambda: (7.5, 1.0, 1.0))
    measured = measure_core(0.05)
    assert 0.1 < measured.gflops < 1000
    assert measured.load == 7.5
    assert 0 < measured.share <= 1.05
    assert measured.busy == (measured.cores < 8 or measured.share < 0.9)


def test_the_rate_counts_the_cpu_time_of_the_measurement_only(monkeypatch):
    """If another process uses the core for half of the time, the rate stays the same and the share is a half."""
    clock = {"wall": 0.0, "cpu": 0.0}

    def product(a, b):
        clock["wall"] += 0.02
        clock["cpu"] += 0.01

    monkeypatch.setattr("torch.mm", product)
    monkeypatch.setattr("time.perf_counter", lambda: clock["wall"])
    monkeypatch.setattr("time.thread_time", lambda: clock["cpu"])
    measured = measure_core(1.0)
    assert measured.share == pytest.approx(0.5)
    assert measured.gflops == pytest.approx(2 * 768**3 / 0.01 / 1e9)
    assert measured.busy


@pytest.mark.parametrize(
    ("load", "share", "busy"), [(0.2, 1.0, False), (1.4, 1.0, False), (1.6, 1.0, True), (0.2, 0.8, True)]
)
def test_a_machine_is_busy_if_its_cores_are_in_use(load, share, busy):
    assert CoreRate(50.0, load, 2, share).busy is busy
