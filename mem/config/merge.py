"""Merging of nested settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def deep_merge(base: Any, over: Any) -> Any:
    """Merge nested mappings. Values of `over` take precedence. Lists are replaced, not merged."""
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        return {key: deep_merge(base.get(key), over[key]) if key in over else base[key] for key in {**base, **over}}
    return over
