"""Heads of a study that compute the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mem.config.base import Section, marked_fields
from mem.config.heads import Head


def computation(head: Head) -> dict[str, Any]:
    """Return the settings that determine what a head computes. Heads that compute the same have the same settings.

    Without weight decay, the group weights `residual` count as `free`. The output of the fusion is o + 1 instead of o,
    which is a shift of the last bias, so that both learn the same. Weight decay draws this bias to 0, and therefore
    `free` weights to 0 and `residual` weights to 1 (docs/explanation/mem.md).
    """
    settings = effective(head)
    if settings.get("weight") == "residual" and not settings["training"]["weight_decay"]:
        return {**settings, "weight": "free"}
    return settings


def effective(section: Section, stage: str | None = None) -> dict[str, Any]:
    """Return the settings that have an effect, at any depth.

    Args:
        section: The settings.
        stage: Stage whose result the settings must be able to change; None for any effect, also on logs.
    """
    unused = section.without_effect() | (marked_fields(type(section), stage) if stage else frozenset())
    values = {name: getattr(section, name) for name in type(section).model_fields if name not in unused}
    return {name: effective(value, stage) if isinstance(value, Section) else value for name, value in values.items()}


def check_distinct(heads: Mapping[str, Head]) -> None:
    """Check that no two heads compute the same.

    They would share a run, which the report would list under both names and count as two comparisons.

    Raises:
        ValueError: Two heads compute the same.
    """
    names = list(heads)
    computations = [computation(head) for head in heads.values()]
    for i, name in enumerate(names):
        if (first := computations.index(computations[i])) < i:
            one, other = heads[names[first]], heads[name]
            shifted = getattr(one, "weight", None) != getattr(other, "weight", None)
            reason = " (without weight decay, `free` and `residual` weights learn the same)" if shifted else ""
            raise ValueError(f"heads.{name}: computes the same as heads.{names[first]}{reason}; remove one of them")
