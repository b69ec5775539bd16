"""Figure style, with the colour palette of Okabe and Ito, which is designed for colour-blind readers."""

from __future__ import annotations

from typing import Any

SHOT_COLOURS = {"many": "#0072B2", "medium": "#E69F00", "few": "#CC79A7", "all": "#4D4D4D"}
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")
MATPLOTLIB_SETTINGS: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "mem",
}
"""Settings for `matplotlib.rc_context`."""
