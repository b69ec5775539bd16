"""Model weights: files, external and official checkpoints, downloads, and loading with a report of every key."""

from __future__ import annotations

from mem.models.weights.tensors import LoadReport, load_into, load_weights, save_weights

__all__ = ["LoadReport", "load_into", "load_weights", "save_weights"]
