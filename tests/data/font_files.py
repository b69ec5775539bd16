"""Small fonts for tests. The glyphs are rectangles whose size depends on the character and the face."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fontTools.fontBuilder import FontBuilder
from fontTools.pens.t2CharStringPen import T2CharStringPen
from fontTools.pens.ttGlyphPen import TTGlyphPen

EM = 1000
Box = tuple[int, int, int, int]
"""Left, bottom, right and upper edge of a glyph, in units of 1/1000 em."""
NOTDEF: Box = (50, 0, 450, 600)


def box_of(character: str, face: int) -> Box:
    """Return a box that differs between any two characters and faces of a test."""
    code = ord(character)
    return (
        40 + 20 * (code % 7),
        20 * (code % 11),
        300 + 20 * (code % 13) + face % 5,
        400 + 10 * (code % 29) + face // 5,
    )


def write_font(
    path: Path,
    characters: Iterable[str],
    face: int = 0,
    family: str | None = None,
    style: str = "Regular",
    boxes: dict[str, Box | None] | None = None,
    widths: dict[str, int] | None = None,
    mapped_to_notdef: Sequence[str] = (),
) -> Path:
    """Write a TrueType font (`.ttf`) or an OpenType font with PostScript outlines (`.otf`).

    Args:
        path: Path of the font.
        characters: Characters that the font maps to glyphs.
        face: Number that determines the shapes.
        family: Family name. Default: the name of the font's folder.
        style: Style name, which identifies the face within its family.
        boxes: Shapes of some characters; None for an empty glyph.
        widths: Advance widths of some characters.
        mapped_to_notdef: Characters that are mapped to the glyph for missing characters.
    """
    postscript = path.suffix.lower() == ".otf"
    family = path.parent.name if family is None else family
    glyphs = {character: f"u{ord(character):04X}" for character in characters}
    shapes: dict[str, Box | None] = {".notdef": NOTDEF}
    for character, glyph in glyphs.items():
        shapes[glyph] = (boxes or {}).get(character, box_of(character, face))
    advances = {glyph: (widths or {}).get(character, 600) for character, glyph in glyphs.items()}
    builder = FontBuilder(EM, isTTF=not postscript)
    builder.setupGlyphOrder(list(shapes))
    cmap = {ord(character): glyph for character, glyph in glyphs.items()}
    builder.setupCharacterMap(cmap | {ord(character): ".notdef" for character in mapped_to_notdef})
    name = f"{family}-{style}".replace(" ", "")
    if postscript:
        builder.setupCFF(
            name, {}, {glyph: _charstring(box, advances.get(glyph, 500)) for glyph, box in shapes.items()}, {}
        )
    else:
        builder.setupGlyf({glyph: _outline(box) for glyph, box in shapes.items()})
    builder.setupHorizontalMetrics(
        {glyph: (advances.get(glyph, 500), (box or NOTDEF)[0]) for glyph, box in shapes.items()}
    )
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": family, "styleName": style, "psName": name})
    builder.setupOS2()
    builder.setupPost()
    builder.font["head"].created = builder.font["head"].modified = 0  # the same bytes at any time
    builder.font.recalcTimestamp = False
    path.parent.mkdir(parents=True, exist_ok=True)
    builder.save(path)
    return path


def _draw(pen: Any, box: Box | None) -> None:
    if box is None:
        return
    left, bottom, right, top = box
    pen.moveTo((left, bottom))
    for point in ((left, top), (right, top), (right, bottom)):
        pen.lineTo(point)
    pen.closePath()


def _outline(box: Box | None) -> Any:
    pen = TTGlyphPen(None)
    _draw(pen, box)
    return pen.glyph()


def _charstring(box: Box | None, width: int) -> Any:
    pen = T2CharStringPen(width, None)
    _draw(pen, box)
    return pen.getCharString()


LETTERS = "ABCDEFGHIJKLMNOP"


def write_families(root: Path, families: int = 12, faces: int = 3) -> Path:
    """Write fonts of several families. Every second family has only the first half of the letters.

    The families 0, 3, 6 and 9 are OpenType fonts.
    """
    for family in range(families):
        for face in range(faces):
            folder = root / ("opentype" if family % 3 == 0 else "truetype") / "foundry" / f"family{family:02d}"
            letters = LETTERS if family % 2 == 0 else LETTERS[: len(LETTERS) // 2]
            suffix = ".otf" if family % 3 == 0 else ".ttf"
            write_font(folder / f"style{face}{suffix}", letters, family * faces + face, style=f"Style{face}")
    return root
