"""Many runs that grow at once: the mirror is close behind them and takes little of a core."""

import pytest

from benchmarks.mirror import measure
from mem.tracking.mirror import _rest


@pytest.mark.flaky(reruns=1)  # where other tests keep all cores busy, seconds pass between two lines of a program
@pytest.mark.timeout(180)
def test_twenty_growing_runs_are_followed_within_ten_seconds_at_less_than_a_twentieth_of_a_core(tmp_path):
    found = measure(tmp_path, seconds=16, rate=0.5, quiet=True)
    assert found["points"] == 20 * 8
    assert found["doubled"] == found["missing"] == 0
    assert found["lag_s"] < 10
    assert found["core_share"] < 0.05


@pytest.mark.parametrize(("spent", "rest"), [(0.0, 2.0), (0.06, 2.0), (0.12, 4.0), (3.0, 6.0)])
def test_a_pass_that_cost_more_is_followed_by_a_longer_rest(spent, rest):
    assert _rest(spent) == pytest.approx(rest)
