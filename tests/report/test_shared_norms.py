"""The report names MEM heads whose sub-networks have the same norms."""

from __future__ import annotations

import numpy as np

from mem.report.figure_set import shared_norms

NORMS = np.array([[20.0, 5.0, 4.0], [6.0, 19.0, 5.0], [3.0, 7.0, 18.0]])


def test_heads_whose_norms_agree_are_named():
    without_few = NORMS.copy()
    without_few[2] = np.nan
    text = shared_norms(
        {
            "mem": NORMS,
            "mem.xi40": 2 * NORMS,
            "mem.free": NORMS * (1 + 1e-4),
            "mem.groups2": NORMS[:2, :2],
            "mem.exp": NORMS * (1 - 1e-4),
            "a": without_few,
            "b": without_few.copy(),
        }
    )
    assert "have the same norms to 0.1 %: mem, mem.free, mem.exp; a, b. Almost only the regularisation" in text
    assert shared_norms({"mem": NORMS, "mem.xi40": 1.01 * NORMS}) == ""
    assert shared_norms({}) == ""
