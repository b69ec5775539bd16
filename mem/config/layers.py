"""Layers of settings: the values of one file or of the overrides, and how later layers change earlier ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mem.config.merge import deep_merge
from mem.config.messages import KeyPath

_KINDS_IN_FINETUNING = {"objective": "name", "tuner": "name", "initial_classifier": "source"}
"""Sections of finetuning that can be a name alone, and the setting that contains the name."""


@dataclass(frozen=True)
class ConfigLayer:
    """The values from one file or from the overrides, with their locations."""

    values: dict[str, Any]
    locations: dict[KeyPath, str] = field(default_factory=dict)
    """Location of each key as `file:line`, for error messages."""


@dataclass(frozen=True)
class Replaced:
    """A section that a later layer replaced as a whole, because it changed the section's kind."""

    setting: str
    """Dotted name of the setting that selects the kind, such as `backbone.kind`."""
    before: str
    after: str
    location: str

    def __str__(self) -> str:
        return (
            f"{self.location}: `{self.setting}` changes from `{self.before}` to `{self.after}`. This replaces the "
            "section as a whole, so specify all its settings here."
        )


@dataclass
class MergedLayers:
    """The values of several layers."""

    values: dict[str, Any] = field(default_factory=dict)
    locations: dict[KeyPath, str] = field(default_factory=dict)
    replaced: dict[KeyPath, Replaced] = field(default_factory=dict)
    """Sections whose kind changed, by their path."""


def merge_layers(layers: Sequence[ConfigLayer]) -> MergedLayers:
    """Merge layers. Later layers take precedence.

    Mappings are merged, except for a section whose kind changes (`backbone.kind`, `dataset.source`, the method of a
    head, the name of an objective or a tuner, the source of the initial classifier): its settings belong to the earlier
    kind, so the later layer replaces it as a whole.
    """
    merged = MergedLayers()
    for layer in layers:
        values = _with_named_sections(layer.values)
        replaced = _changed_kinds(merged.values, values, layer.locations)
        base = merged.values
        for path in replaced:
            base = _without(base, path)
            merged.locations = {key: line for key, line in merged.locations.items() if key[: len(path)] != path}
        merged.values = deep_merge(base, values)
        merged.locations |= layer.locations
        merged.replaced |= replaced
    return merged


def _with_named_sections(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values with every section that is only a name as a mapping, so that layers can be merged."""
    for path in _named_sections(values):
        name = _at(values, path)
        if isinstance(name, str):
            values = deep_merge(_without(values, path), _nested(path, {_KINDS_IN_FINETUNING[str(path[-1])]: name}))
    return values


def _named_sections(values: Mapping[str, Any]) -> list[KeyPath]:
    """Return the paths at which the values may contain a section of finetuning that can be a name alone."""
    variants = values.get("finetune_variants")
    names = list(variants) if isinstance(variants, Mapping) else []
    finetunings: list[KeyPath] = [("finetune",), *(("finetune_variants", name) for name in names)]
    return [(*path, section) for path in finetunings for section in _KINDS_IN_FINETUNING]


def _changed_kinds(
    base: Mapping[str, Any], values: Mapping[str, Any], locations: Mapping[KeyPath, str]
) -> dict[KeyPath, Replaced]:
    """Return the sections of `base` whose kind the values of a later layer change."""
    kinds: list[tuple[KeyPath, str]] = [(("dataset",), "source"), (("backbone",), "kind")]
    kinds += [(path, _KINDS_IN_FINETUNING[str(path[-1])]) for path in _named_sections(values)]
    sections = [(path, field_name, _at(base, path), _at(values, path)) for path, field_name in kinds]
    heads, over = base.get("heads"), values.get("heads")
    if isinstance(heads, Mapping) and isinstance(over, Mapping):
        # The name of a head is its method by default.
        sections += [
            (("heads", name), "method", {"method": name} | dict(heads[name] or {}), over[name])
            for name in over
            if isinstance(heads.get(name, 0), Mapping | None)
        ]
    changed: dict[KeyPath, Replaced] = {}
    for path, field_name, before, after in sections:
        if not isinstance(before, Mapping) or not isinstance(after, Mapping):
            continue
        old, new = before.get(field_name), after.get(field_name)
        if old is not None and new is not None and old != new:
            location = locations.get((*path, field_name), locations.get(path, ""))
            changed[path] = Replaced(".".join(map(str, (*path, field_name))), str(old), str(new), location)
    return changed


def _at(values: Any, path: KeyPath) -> Any:
    """Return the value at a path of keys of nested mappings, or None if there is none."""
    for key in path:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def _nested(path: KeyPath, value: Any) -> Any:
    """Return nested mappings with a value at a path."""
    for key in reversed(path):
        value = {key: value}
    return value


def _without(values: Mapping[Any, Any], path: KeyPath) -> dict[Any, Any]:
    """Return nested mappings without the value at a path, which exists."""
    key, *rest = path
    if not rest:
        return {name: value for name, value in values.items() if name != key}
    return {**values, key: _without(values[key], tuple(rest))}
