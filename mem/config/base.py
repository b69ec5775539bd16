"""Base class and shared types of the configuration schema."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


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


class Section(BaseModel):
    """Base class of all sections. Sections are immutable and reject unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def without_effect(self) -> frozenset[str]:
        """Return the names of settings that have no effect, because of the values of other settings."""
        return frozenset()


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.]*$")]
"""A name for use in paths: letters, digits, `_` and `.`."""
Fraction = Annotated[float, Field(ge=0, le=1)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]
