"""Groups of small pictures on the report page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Picture:
    """An image with the text below it."""

    data_uri: str | None
    """The picture as a `data:` URI. None if the image is missing or damaged."""
    text: str
    name: str = ""
    """Name of the image in the data set, if known."""


@dataclass(frozen=True)
class PictureGroup:
    """Pictures with a common title, for example the images of one class that are confused with another."""

    title: str
    text: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class CaptionedPictures:
    """Groups of pictures with a title and caption."""

    title: str
    caption: str
    groups: Sequence[PictureGroup]
