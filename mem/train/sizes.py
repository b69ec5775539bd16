"""Sizes of what stages keep in memory or write, which `mem plan` also uses. Importing them does not import PyTorch."""

from __future__ import annotations

FEATURE_BATCH = 256
"""Images per forward pass of a frozen backbone."""
KEPT_CHECKPOINTS = 2
"""Number of checkpoints to keep: the newest one, and the previous one in case the newest is damaged."""
LOGGED_POINTS = 400
"""Approximate number of points in a training curve."""
