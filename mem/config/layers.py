"""Layers of settings: the values of one file or of the overrides, and how later layers change earlier ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mem.config.messages import KeyPath


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
    head): its settings belong to the earlier kind, so the later layer replaces it as a whole.
    """
    merged = MergedLayers()
    for layer in layers:
        replaced = _changed_kinds(merged.values, layer)
        base = _without(merged.values, replaced)
        for path in replaced:
            merged.locations = {key: line for key, line in merged.locations.items() if key[: len(path)] != path}
        merged.values = deep_merge(base, layer.values)
        merged.locations |= layer.locations
        merged.replaced |= replaced
    return merged


def deep_merge(base: Any, over: Any) -> Any:
    """Merge nested mappings. Values of `over` take precedence. Lists are replaced, not merged."""
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        return {key: deep_merge(base.get(key), over[key]) if key in over else base[key] for key in {**base, **over}}
    return over


def _changed_kinds(base: Mapping[str, Any], layer: ConfigLayer) -> dict[KeyPath, Replaced]:
    """Return the sections of `base` whose kind the layer changes."""
    sections: list[tuple[KeyPath, str, Any, Any]] = [
        (("dataset",), "source", base.get("dataset"), layer.values.get("dataset")),
        (("backbone",), "kind", base.get("backbone"), layer.values.get("backbone")),
    ]
    heads, over = base.get("heads"), layer.values.get("heads")
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
            location = layer.locations.get((*path, field_name), "")
            changed[path] = Replaced(".".join(map(str, (*path, field_name))), str(old), str(new), location)
    return changed


def _without(values: dict[str, Any], paths: Mapping[KeyPath, Any]) -> dict[str, Any]:
    """Return the values without the sections at the given paths, which have one or two keys."""
    rest = {key: value for key, value in values.items() if (key,) not in paths}
    if isinstance(rest.get("heads"), Mapping):
        rest["heads"] = {name: head for name, head in rest["heads"].items() if ("heads", name) not in paths}
    return rest
