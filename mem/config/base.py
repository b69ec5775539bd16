"""Base class and shared types of the configuration schema."""

from __future__ import annotations

from functools import cache
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Unkeyed:
    """Marker for settings that cannot change a result. These settings are not part of a run's key.

    Args:
        stages: Stages whose result does not depend on the setting. Without stages: all stages.
    """

    def __init__(self, *stages: str) -> None:
        self._stages = stages

    def applies_to(self, stage: str) -> bool:
        """Whether the result of a stage does not depend on the setting."""
        return not self._stages or stage in self._stages


@cache
def marked_fields(section: type[BaseModel], stage: str) -> frozenset[str]:
    """Return the names of the settings of a section that are marked as `Unkeyed` for a stage."""
    return frozenset(
        name
        for name, info in section.model_fields.items()
        if any(isinstance(mark, Unkeyed) and mark.applies_to(stage) for mark in info.metadata)
    )


class Section(BaseModel):
    """Base class of all sections. Sections are immutable and reject unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def without_effect(self) -> frozenset[str]:
        """Return the names of settings that have no effect, because of the values of other settings."""
        return frozenset()


def accept_name(setting: str) -> BeforeValidator:
    """Return the mark of a section that can be a name alone, which is then the value of one of its settings."""
    return BeforeValidator(lambda value: {setting: value} if isinstance(value, str) else value)


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.]*$")]
"""A name for use in paths: letters, digits, `_` and `.`."""
Fraction = Annotated[float, Field(ge=0, le=1)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]
