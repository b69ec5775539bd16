"""Device rates, and the longest chain of runs."""

from __future__ import annotations

from mem.plan.hours import core_gflops, critical_path
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


def test_the_rate_of_a_core_is_measured():
    assert 0.1 < core_gflops(0.05) < 1000
