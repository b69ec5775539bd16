"""Find ablations: sets of heads that differ in exactly one setting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mem.config import Head


@dataclass(frozen=True)
class Ablation:
    """Heads that differ in one setting."""

    setting: str
    """Dotted name of the setting that differs."""
    variants: tuple[str, ...]
    """Names of the heads, in the order of `values`."""
    values: tuple[Any, ...]
    """Value of the setting for each head, in ascending order if all values are numbers."""

    @property
    def numeric(self) -> bool:
        """Whether all values are numbers and can be plotted on a numeric axis."""
        return all(isinstance(value, int | float) and not isinstance(value, bool) for value in self.values)


def find_ablations(heads: Mapping[str, Head], method: str = "mem") -> list[Ablation]:
    """Return one ablation for every setting in which heads of a method differ while all other settings are equal.

    In a grid, several sets of heads vary the same setting. If one of these sets contains the head named after the
    method, this set is used, otherwise the largest set. Heads with equal settings count once.
    """
    settings_of = {name: flatten(head.model_dump(mode="json")) for name, head in heads.items() if head.method == method}
    name_by_settings: dict[tuple, str] = {}
    for name, settings in settings_of.items():
        name_by_settings.setdefault(_hashable(settings), name)
    # Of several heads with equal settings, list the one named after the method.
    if method in settings_of:
        name_by_settings[_hashable(settings_of[method])] = method
    distinct = {name: settings_of[name] for name in name_by_settings.values()}
    ablations: list[Ablation] = []
    for setting in dict.fromkeys(key for settings in distinct.values() for key in settings):
        value_sets: dict[tuple, dict[str, Any]] = {}
        for name, settings in distinct.items():
            if setting in settings:
                others = {key: value for key, value in settings.items() if key != setting}
                value_sets.setdefault(_hashable(others), {})[name] = settings[setting]
        candidates = [values for values in value_sets.values() if len(values) > 1]
        if candidates:
            ablations.append(_ascending(setting, max(candidates, key=lambda values: (method in values, len(values)))))
    return ablations


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted names. Lists become tuples."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = tuple(value) if isinstance(value, list) else value
    return flat


def _hashable(settings: Mapping[str, Any]) -> tuple:
    return tuple(sorted((key, repr(value)) for key, value in settings.items()))


def _ascending(setting: str, value_of: Mapping[str, Any]) -> Ablation:
    ablation = Ablation(setting, tuple(value_of), tuple(value_of.values()))
    if not ablation.numeric:
        return ablation
    pairs = sorted(value_of.items(), key=lambda pair: pair[1])
    return Ablation(setting, tuple(name for name, _ in pairs), tuple(value for _, value in pairs))
