"""The faces of a folder of fonts: their families, and the characters that each of them draws."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from mem.data.datasets.glyphs.characters import is_candidate
from mem.data.datasets.glyphs.render import open_font
from mem.errors import UserError
from mem.runs.font_files import FONT_FOLDERS, FontFile, find_fonts, font_folder

if TYPE_CHECKING:
    from fontTools.ttLib import TTFont

MAX_NAMED = 10
"""Maximum number of fonts that a message names."""
_MAX_EMPTY_CHARSTRING = 7
"""Longest program of an empty CFF glyph, in bytes: a width, the number of a subroutine, and a call. Longer programs
draw something, and the shorter ones are executed to find out."""
_MAX_ADVANCE = 2
"""Largest advance width of a usable glyph, in em. Wider glyphs are faulty, or most of them is outside the image."""
_NOTDEF = ".notdef"


@dataclass(frozen=True)
class Face:
    """A face: one font file that draws characters."""

    file: FontFile
    family_name: str
    """Family name in the font; "" if it has none."""
    full_name: str
    """PostScript name in the font, which identifies the face within its family."""
    characters: frozenset[int]
    """Candidate characters that the face draws. Empty and very wide glyphs, and copies of the box for missing glyphs,
    do not count."""


@dataclass(frozen=True)
class Fonts:
    """The usable faces of a folder."""

    faces: tuple[Face, ...]
    """Faces, sorted by the name of the font file."""
    families: tuple[str, ...]
    """Family of each face: the name of the first of its folders."""
    bad: Mapping[str, str] = field(default_factory=dict)
    """Font files that cannot be read, with the reason."""
    duplicates: tuple[str, ...] = ()
    """Font files that contain a face again, for example in another format."""

    def notes(self) -> tuple[str, ...]:
        """Return messages about the fonts for the user."""
        notes = [f"Fonts: {len(self.faces):,} faces of {len(set(self.families)):,} families"]
        if self.duplicates:
            one = len(self.duplicates) == 1
            verbs = ("file contains", "is") if one else ("files contain", "are")
            notes.append(
                f"{len(self.duplicates):,} font {verbs[0]} a face that another file contains too, and {verbs[1]} not "
                f"used: {named(self.duplicates)}"
            )
        if self.bad:
            listed = [f"{name} ({reason})" for name, reason in self.bad.items()]
            verb = "file cannot be used" if len(listed) == 1 else "files cannot be used"
            notes.append(f"{len(listed):,} font {verb}: {named(listed)}")
        return tuple(notes)


def named(items: list[str] | tuple[str, ...]) -> str:
    """Return the first items, separated by commas, and the number of the others."""
    more = f" and {len(items) - MAX_NAMED:,} more" if len(items) > MAX_NAMED else ""
    return ", ".join(items[:MAX_NAMED]) + more


def read_fonts(root: str | None) -> Fonts:
    """Read the character maps of all fonts below a folder. For None, see `font_folder`.

    Raises:
        UserError: The folder does not exist, or contains no usable fonts.
    """
    folder = font_folder(root)
    files = find_fonts(folder)
    advice = (
        "Download fonts with `mem data fonts`, install the Debian package (apt install texlive-fonts-extra), or set "
        "dataset.root to another folder with .otf or .ttf files."
    )
    if root is None and not folder.is_dir():
        raise UserError(f"dataset.root: none of the default folders exists: {', '.join(FONT_FOLDERS)}. {advice}")
    if not files:
        raise UserError(f"dataset.root: {folder} does not exist or contains no .otf and .ttf files. {advice}")
    faces: dict[tuple[str, str], Face] = {}
    bad: dict[str, str] = {}
    duplicates: list[str] = []
    with _quiet_font_library():
        for file in files:
            try:
                face = _read_face(file)
            except Exception as error:  # a damaged font can cause any error; the font is reported and not used
                bad[file.name] = _reason(error)
                continue
            key = (face.family_name or _folder(face), face.full_name)
            if key in faces:
                duplicates.append(file.name)
            elif face.characters:
                faces[key] = face
            else:
                bad[file.name] = "draws no letters, digits, punctuation or symbols"
    if not faces:
        listed = named([f"{name} ({reason})" for name, reason in bad.items()])
        raise UserError(f"dataset.root: none of the {len(files):,} fonts in {folder} can be used: {listed}. {advice}")
    usable = tuple(faces.values())
    return Fonts(usable, _families(usable), bad, tuple(duplicates))


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:80]}" if text else type(error).__name__


@contextmanager
def _quiet_font_library() -> Iterator[None]:
    """Suppress the warnings of fontTools about details of fonts."""
    logger = logging.getLogger("fontTools")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _folder(face: Face) -> str:
    return str(PurePosixPath(face.file.name).parent)


def _families(faces: tuple[Face, ...]) -> tuple[str, ...]:
    """Return the family of each face. Faces in the same folder, or with the same family name, are of one family."""
    parents: dict[str, str] = {}

    def find(name: str) -> str:
        while parents.setdefault(name, name) != name:
            name = parents[name]
        return name

    for face in faces:
        folder = find(f"folder {_folder(face)}")
        if face.family_name:
            other = find(f"name {face.family_name}")
            # The representative is a folder, because "folder" sorts before "name".
            parents[max(folder, other)] = min(folder, other)
    return tuple(find(f"folder {_folder(face)}").removeprefix("folder ") for face in faces)


def _read_face(file: FontFile) -> Face:
    from fontTools.ttLib import TTFont

    with open(file.path, "rb") as content, TTFont(content, lazy=True) as font:
        characters = _drawn_characters(font)
        names = font["name"]
        family = names.getDebugName(16) or names.getDebugName(1) or ""
        full_name = names.getDebugName(6) or PurePosixPath(file.name).stem
    if characters:  # check that FreeType accepts the font as well
        open_font(file.path, 16).getmask(chr(min(characters)))
    return Face(file, family, full_name, characters)


def _drawn_characters(font: TTFont) -> frozenset[int]:
    """Return the candidate characters for which the font has a glyph that draws something."""
    widths, em = font["hmtx"].metrics, font["head"].unitsPerEm  # pyright: ignore[reportAttributeAccessIssue]
    glyphs = {
        code: glyph
        for code, glyph in (font.getBestCmap() or {}).items()
        if is_candidate(code) and widths[glyph][0] <= _MAX_ADVANCE * em
    }
    if not glyphs:
        return frozenset()
    if "glyf" in font:
        empty = _undrawn_truetype(font, set(glyphs.values()))
    elif "CFF " in font:
        empty = _undrawn_cff(font, set(glyphs.values()))
    else:
        raise ValueError("has no outlines (neither a `glyf` nor a `CFF` table)")
    return frozenset(code for code, glyph in glyphs.items() if glyph not in empty)


def _undrawn_truetype(font: TTFont, glyphs: set[str]) -> set[str]:
    """Return the glyphs that are empty, or that equal the box for missing glyphs."""
    positions = font["loca"].locations
    data = font.getTableData("glyf")

    def content(glyph: str) -> bytes:
        i = font.getGlyphID(glyph)
        return data[positions[i] : positions[i + 1]]

    missing = content(_NOTDEF) if _NOTDEF in font.getReverseGlyphMap() else b""
    return {glyph for glyph in glyphs if glyph == _NOTDEF or (outline := content(glyph)) == missing or not outline}


def _undrawn_cff(font: TTFont, glyphs: set[str]) -> set[str]:
    """Return the glyphs that are empty, or that equal the box for missing glyphs."""
    programs = font["CFF "].cff.topDictIndex[0].CharStrings
    outlines = font.getGlyphSet()
    ends = programs.charStringsIndex.offsets  # the lengths of programs are known without reading them
    missing = programs[_NOTDEF].bytecode if _NOTDEF in programs else b""

    def is_undrawn(glyph: str) -> bool:
        i = programs.charStrings[glyph]
        length = ends[i + 1] - ends[i]
        if length == len(missing) and programs[glyph].bytecode == missing:
            return True
        return length <= _MAX_EMPTY_CHARSTRING and not _draws(outlines, glyph)

    return {glyph for glyph in glyphs if glyph == _NOTDEF or is_undrawn(glyph)}


def _draws(outlines: Mapping[str, object], glyph: str) -> bool:
    from fontTools.pens.boundsPen import ControlBoundsPen

    pen = ControlBoundsPen(outlines)
    outlines[glyph].draw(pen)  # pyright: ignore[reportAttributeAccessIssue]
    return pen.bounds is not None
