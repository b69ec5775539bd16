"""Sweeps: many variants of one head from a few lines."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError, model_validator

from mem.config.base import Name, Section
from mem.config.heads import Head


class Sweep(Section):
    """Variants of a head: every combination of the values given, as heads of their own.

    A variant's name is the head's, then one word per setting: the value where that is a word, else the setting with the
    value (`mem.frozen.crt`, `mem.xi40`). A combination that equals a head of the study is not run twice.
    """

    of: Name
    """Name of the head that is varied."""
    over: dict[str, tuple[str | float | int | bool, ...]]
    """Settings of that head, with the values that each takes; `training.sampler` is a setting of its training."""

    @model_validator(mode="after")
    def _values(self) -> Sweep:
        for setting, values in self.over.items():
            if not values or len(set(values)) != len(values):
                raise ValueError(f"over.{setting}: needs different values, has {list(values)}")
        if not self.over:
            raise ValueError("over: needs at least one setting")
        return self

    def variants(self, head: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Names and settings of the variants of a head given as a mapping.

        Raises:
            ValueError: The head has no such section.
        """
        for values in itertools.product(*self.over.values()):
            varied = copy.deepcopy(dict(head))
            words = [self.of]
            for setting, value in zip(self.over, values, strict=True):
                *sections, last = setting.split(".")
                place = varied
                for section in sections:
                    if not isinstance(place.get(section), dict):
                        raise ValueError(f"over: `{self.of}` has no section `{section}`, which `{setting}` names")
                    place = place[section]
                place[last] = value
                words.append(value if isinstance(value, str) else f"{last}{value:g}")
            yield ".".join(words), varied


def with_variants(heads: Mapping[str, Any], sweeps: Any) -> dict[str, Any]:
    """The heads and the variants that the sweeps make of them, all as they stand in YAML.

    What is no sweep, or has faults, is left to the schema to refuse.

    Raises:
        ValueError: A sweep is of no head, names no setting of it, or makes a name that is another head's.
    """
    found = dict(heads)
    for name, raw in (sweeps or {}).items() if isinstance(sweeps, Mapping | None) else ():
        try:
            sweep = raw if isinstance(raw, Sweep) else Sweep.model_validate(raw)
        except ValidationError:
            continue
        base = heads.get(sweep.of)
        if not isinstance(base, dict):
            raise ValueError(f"sweeps.{name}.of: `{sweep.of}` is no head of this study; there are {list(heads)}")
        try:
            variants = list(sweep.variants(base))
        except ValueError as error:
            raise ValueError(f"sweeps.{name}.{error}") from None
        for variant, settings in variants:
            if variant in heads and heads[variant] != settings:
                raise ValueError(f"sweeps.{name}: its variant {variant} is the name of another head of this study")
            if not any(_equal(settings, other) for other in found.values()):
                found[variant] = settings
    return found


_HEAD: TypeAdapter[Head] = TypeAdapter(Head)


def _equal(one: Any, other: Any) -> bool:
    """Whether two heads are the same with their defaults."""
    if one == other:
        return True
    try:
        return _HEAD.validate_python(one) == _HEAD.validate_python(other)
    except ValidationError:
        return False
