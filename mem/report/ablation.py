"""Heads that differ in one setting only: what a sweep shows, found from the heads' settings themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mem.config import Head


@dataclass(frozen=True)
class Ablation:
    """Heads that agree in everything but one setting."""

    setting: str
    """Its name, with dots."""
    variants: tuple[str, ...]
    """The heads, in the order of `values`."""
    values: tuple[Any, ...]
    """What each has: ascending where they are numbers."""

    @property
    def numeric(self) -> bool:
        """Whether the values can stand on an axis."""
        return all(isinstance(value, int | float) and not isinstance(value, bool) for value in self.values)


def ablations(heads: Mapping[str, Head], method: str = "mem") -> list[Ablation]:
    """For each setting in which heads of a method differ, the heads that differ in it alone.

    Where several sets of heads do, as in a grid, the one with the head that is named like the method is taken, else the
    largest. Heads with equal settings count once.
    """
    flat = {name: flattened(head.model_dump(mode="json")) for name, head in heads.items() if head.method == method}
    by_settings: dict[tuple, str] = {}
    for name, settings in flat.items():
        by_settings.setdefault(_frozen(settings), name)
    # A head that is named like the method stands for its equals.
    if method in flat:
        by_settings[_frozen(flat[method])] = method
    single = {name: flat[name] for name in by_settings.values()}
    found: list[Ablation] = []
    for setting in dict.fromkeys(key for settings in single.values() for key in settings):
        families: dict[tuple, dict[str, Any]] = {}
        for name, settings in single.items():
            if setting in settings:
                rest = {key: value for key, value in settings.items() if key != setting}
                families.setdefault(_frozen(rest), {})[name] = settings[setting]
        several = [family for family in families.values() if len(family) > 1]
        if several:
            family = max(several, key=lambda members: (method in members, len(members)))
            found.append(_sorted(setting, family))
    return found


def flattened(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings by dotted names; lists as they are."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= flattened(value, f"{above}{name}.")
        else:
            found[above + name] = tuple(value) if isinstance(value, list) else value
    return found


def _frozen(settings: Mapping[str, Any]) -> tuple:
    return tuple(sorted((key, repr(value)) for key, value in settings.items()))


def _sorted(setting: str, family: Mapping[str, Any]) -> Ablation:
    one = Ablation(setting, tuple(family), tuple(family.values()))
    if not one.numeric:
        return one
    pairs = sorted(family.items(), key=lambda item: item[1])
    return Ablation(setting, tuple(name for name, _ in pairs), tuple(value for _, value in pairs))
