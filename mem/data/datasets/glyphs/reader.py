"""Reader for Glyphs-LT: chooses families, classes and images. The images are rendered when they are read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32, Int64

from mem.config import Glyphs
from mem.data.datasets.base import ImageSet, ImageSplit, empty_split, gray_to_rgb
from mem.data.datasets.glyphs.characters import class_name, look_alike
from mem.data.datasets.glyphs.cut import SPLITS, Classes, choose_classes, choose_evenly, choose_train, split_families
from mem.data.datasets.glyphs.fonts import Face, Fonts, read_fonts
from mem.data.datasets.glyphs.render import render


def read_glyphs(settings: Glyphs, order: int) -> ImageSet:
    """Read the fonts and choose a cut of them.

    Raises:
        UserError: There are no usable fonts, or too few of them for the settings.
    """
    fonts = read_fonts(settings.root)
    drawn, codes = _drawn_codes(fonts.faces, settings.look_alikes == "merge")
    _, family = np.unique(np.asarray(fonts.families), return_inverse=True)
    split_of_family = split_families(np.bincount(family), settings, order)
    members = [np.flatnonzero(split_of_family[family] == s) for s in range(len(SPLITS))]
    available = np.stack([(drawn[faces] > 0).sum(axis=0) for faces in members])
    classes = choose_classes(available, codes, settings, order)
    drawn = drawn[:, classes.chosen]

    def split(name: str) -> ImageSplit:
        faces = members[SPLITS.index(name)]
        draws = drawn[faces] > 0
        if name == "train":
            chosen = choose_train(draws, classes.counts, settings, order)
        else:
            chosen = choose_evenly(draws, family[faces], name, settings, order)
        return _split_of(fonts.faces, [faces[rows] for rows in chosen], drawn, settings)

    return ImageSet(
        tuple(class_name(code) for code in codes[classes.chosen].tolist()),
        split("train"),
        split("val"),
        split("test"),
        notes=_notes(fonts, np.bincount(split_of_family, minlength=len(SPLITS)), classes),
    )


def _drawn_codes(
    faces: Sequence[Face], merge: bool
) -> tuple[Int32[np.ndarray, "faces characters"], Int64[np.ndarray, " characters"]]:
    """Return what each face draws for each character, and the characters in ascending order.

    Args:
        faces: The faces.
        merge: Whether look-alikes are one character.

    Returns:
        The code points that each face draws for each character, 0 if it does not draw the character, and the code
        points of the characters. They differ only for look-alikes: a face that draws several of them draws the
        character itself, or else the one with the lowest code point.
    """
    represents = {code: look_alike(code) if merge else code for face in faces for code in face.characters}
    codes = np.unique(np.fromiter(represents.values(), dtype=np.int64))
    drawn = np.zeros((len(faces), len(codes)), dtype=np.int32)
    for row, face in zip(drawn, faces, strict=True):
        found = np.asarray(sorted(face.characters, reverse=True), dtype=np.int64)
        columns = np.searchsorted(codes, [represents[code] for code in found.tolist()])
        row[columns] = found  # the last and lowest of several code points remains
        itself = codes[columns] == found
        row[columns[itself]] = found[itself]
    return drawn, codes


def _split_of(
    faces: Sequence[Face], chosen: Sequence[np.ndarray], drawn: Int32[np.ndarray, "faces classes"], settings: Glyphs
) -> ImageSplit:
    """Create a split from the chosen faces of each class. Images are sorted by face, so that each is opened once."""
    labels = np.repeat(np.arange(len(chosen)), [len(rows) for rows in chosen])
    face = np.concatenate(chosen) if len(labels) else np.zeros(0, dtype=np.int64)
    if not len(labels):
        return empty_split()
    by_face = np.lexsort((labels, face))
    labels, face = labels[by_face], face[by_face]
    codes = drawn[face, labels].tolist()
    files = [faces[i].file for i in face.tolist()]

    def read(i: int) -> np.ndarray:
        return gray_to_rgb(render(files[i].path, codes[i], settings.image_size, settings.em))

    names = tuple(f"{file.name}/U+{code:04X}" for file, code in zip(files, codes, strict=True))
    return ImageSplit(labels, names, read)


def _notes(fonts: Fonts, families: Int64[np.ndarray, " splits"], classes: Classes) -> tuple[str, ...]:
    """Return the messages for the user about the fonts and the cut."""
    sizes = ", ".join(f"{number:,} in {name}" for name, number in zip(SPLITS, families.tolist(), strict=True))
    cut = f"Families: {sizes}. {classes.qualified:,} characters are drawn by enough fonts to be classes"
    return (*fonts.notes(), cut, *classes.notes)
