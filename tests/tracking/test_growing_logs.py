"""A mirror that follows many growing logs sends every point once. Its speed is measured in `benchmarks/mirror.py`."""

import pytest

from benchmarks.mirror import RUNS, measure


@pytest.mark.stage
@pytest.mark.timeout(180)
def test_every_point_of_twenty_growing_logs_arrives_once(tmp_path):
    found = measure(tmp_path, seconds=8, rate=1, quiet=True)
    assert found["points"] >= 2 * RUNS
    assert found["doubled"] == found["missing"] == 0
