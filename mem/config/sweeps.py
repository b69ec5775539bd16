"""Sweeps: variants of one head for all combinations of the given values."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError, model_validator

from mem.config.base import Name, Section
from mem.config.duplicates import computation
from mem.config.heads import Head


class Sweep(Section):
    """Variants of a head, one for every combination of the given values.

    The name of a variant consists of the head's name and one part per setting: the value if it is text, otherwise the
    setting followed by the value (`mem.frozen.crt`, `mem.xi40`). A combination that computes the same as another head
    of the study is left out.
    """

    of: Name
    """Name of the head to vary."""
    over: dict[str, tuple[str | float | int | bool, ...]]
    """Settings of the head and their values. A dot selects a setting within a section, as in `training.sampler`."""

    @model_validator(mode="after")
    def _values(self) -> Sweep:
        for setting, values in self.over.items():
            if not values or len(set(values)) != len(values):
                raise ValueError(f"over.{setting}: expected one or more distinct values, got {list(values)}")
        if not self.over:
            raise ValueError("over: expected at least one setting")
        return self

    def variants(self, head: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the name and the settings of each variant of a head. The head is given as a mapping.

        Raises:
            ValueError: A setting of the sweep belongs to a section that the head does not have.
        """
        for values in itertools.product(*self.over.values()):
            varied = copy.deepcopy(dict(head))
            name_parts = [self.of]
            for setting, value in zip(self.over, values, strict=True):
                *sections, last = setting.split(".")
                target = varied
                for section in sections:
                    if not isinstance(target.get(section), dict):
                        raise ValueError(f"over.{setting}: head `{self.of}` has no section `{section}`")
                    target = target[section]
                target[last] = value
                name_parts.append(value if isinstance(value, str) else f"{last}{value:g}")
            yield ".".join(name_parts), varied


def with_variants(heads: Mapping[str, Any], sweeps: Any) -> dict[str, Any]:
    """Return the heads and the variants of all sweeps, as mappings.

    Invalid sweeps are ignored, because validation of the study reports them later.

    Raises:
        ValueError: A sweep refers to an unknown head or section, or a variant has the name of another head.
    """
    all_heads = dict(heads)
    known = [_computation(settings) for settings in heads.values()]
    for name, raw in (sweeps or {}).items() if isinstance(sweeps, Mapping | None) else ():
        try:
            sweep = raw if isinstance(raw, Sweep) else Sweep.model_validate(raw)
        except ValidationError:
            continue
        base = heads.get(sweep.of)
        if not isinstance(base, dict):
            raise ValueError(f"sweeps.{name}.of: this study has no head `{sweep.of}`; its heads are {list(heads)}")
        try:
            variants = list(sweep.variants(base))
        except ValueError as error:
            raise ValueError(f"sweeps.{name}.{error}") from None
        for variant, settings in variants:
            if variant in heads and heads[variant] != settings:
                raise ValueError(f"sweeps.{name}: the variant {variant} has the name of another head of this study")
            computed = _computation(settings)
            if variant not in heads and computed not in known:
                all_heads[variant] = settings
                known.append(computed)
    return all_heads


_HEAD: TypeAdapter[Head] = TypeAdapter(Head)


def _computation(settings: Any) -> Any:
    """Return what a head computes, after defaults are filled in, or the settings themselves if they are invalid."""
    try:
        return computation(_HEAD.validate_python(settings))
    except ValidationError:
        return settings
