"""The fonts of Glyphs-LT: which characters a face draws, families, damaged fonts, look-alikes and rendering."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest

from mem.data.codecs.limits import Unreadable
from mem.data.datasets.glyphs.characters import class_name, is_candidate, look_alike
from mem.data.datasets.glyphs.fonts import MAX_NAMED, read_fonts
from mem.data.datasets.glyphs.render import baseline, render
from mem.errors import UserError
from tests.data.font_files import NOTDEF, write_font


@pytest.mark.parametrize("suffix", [".ttf", ".otf"])
def test_a_face_draws_the_characters_with_a_glyph_of_their_own(tmp_path, suffix):
    write_font(
        tmp_path / "a" / f"x{suffix}",
        "ABCDE \u0301\ue000",
        boxes={"B": None, "C": NOTDEF, " ": None},
        widths={"C": 500, "D": 2100, "E": 2000},
        mapped_to_notdef="F",
    )
    (face,) = read_fonts(str(tmp_path)).faces
    assert "".join(sorted(map(chr, face.characters))) == "AE"


def test_an_empty_glyph_that_calls_a_subroutine_draws_nothing(tmp_path):
    from fontTools.misc.psCharStrings import T2CharString
    from fontTools.ttLib import TTFont

    path = write_font(tmp_path / "a" / "x.otf", "AB")
    font = TTFont(path)
    top = font["CFF "].cff.topDictIndex[0]
    subroutine = T2CharString(program=["endchar"])
    font["CFF "].cff.GlobalSubrs.append(subroutine)
    top.CharStrings["u0042"].setProgram([500, -107, "callgsubr"])
    font.save(path)
    (face,) = read_fonts(str(tmp_path)).faces
    assert set(map(chr, face.characters)) == {"A"}


def test_faces_of_a_folder_or_with_a_family_name_are_one_family(tmp_path):
    write_font(tmp_path / "otf" / "roman" / "a.otf", "AB", family="Roman")
    write_font(tmp_path / "ttf" / "roman" / "b.ttf", "AB", 1, family="Roman", style="Bold")
    write_font(tmp_path / "ttf" / "roman" / "c.ttf", "AB", 2, family="Roman Caption")
    write_font(tmp_path / "ttf" / "other" / "d.ttf", "AB", 3, family="Other")
    fonts = read_fonts(str(tmp_path))
    assert [face.file.name for face in fonts.faces] == [
        "otf/roman/a.otf",
        "ttf/other/d.ttf",
        "ttf/roman/b.ttf",
        "ttf/roman/c.ttf",
    ]
    assert fonts.families == ("otf/roman", "ttf/other", "otf/roman", "otf/roman")


def test_a_face_in_two_formats_is_used_once(tmp_path):
    write_font(tmp_path / "opentype" / "a.otf", "AB", family="Roman")
    write_font(tmp_path / "truetype" / "a.ttf", "AB", family="Roman")
    write_font(tmp_path / "truetype" / "b.ttf", "AB", family="Roman", style="Bold")
    fonts = read_fonts(str(tmp_path))
    assert [face.file.name for face in fonts.faces] == ["opentype/a.otf", "truetype/b.ttf"]
    assert fonts.duplicates == ("truetype/a.ttf",)
    assert (
        "1 font file contains a face that another file contains too, and is not used: truetype/a.ttf" in fonts.notes()
    )


def test_fonts_that_cannot_be_used_are_counted_and_named(tmp_path):
    write_font(tmp_path / "good" / "a.ttf", "AB")
    whole = write_font(tmp_path / "good" / "b.otf", "AB", style="Bold").read_bytes()
    bad = tmp_path / "bad"
    bad.mkdir()
    for i in range(MAX_NAMED):
        (bad / f"{i:02d}.ttf").write_bytes(b"no font")
    (bad / "empty.otf").write_bytes(b"")
    (bad / "half.otf").write_bytes(whole[: len(whole) // 2])
    (bad / "link.ttf").symlink_to("/nowhere.ttf")
    write_font(bad / "symbols.TTF", " \ue000")
    fonts = read_fonts(str(tmp_path))
    assert [face.file.name for face in fonts.faces] == ["good/a.ttf", "good/b.otf"]
    assert len(fonts.bad) == MAX_NAMED + 4
    assert fonts.bad["bad/symbols.TTF"] == "draws no letters, digits, punctuation or symbols"
    (note,) = [note for note in fonts.notes() if "cannot be used" in note]
    assert note.startswith("14 font files cannot be used: bad/00.ttf (")
    assert note.count(".ttf") + note.count(".otf") == MAX_NAMED
    assert note.endswith(" and 4 more")


@pytest.mark.parametrize("content", ["missing", "empty", "broken"])
def test_the_message_without_usable_fonts_says_how_to_get_them(tmp_path, content):
    root = tmp_path / "fonts"
    if content != "missing":
        root.mkdir()
    if content == "broken":
        (root / "a.ttf").write_bytes(b"no font")
    with pytest.raises(UserError) as error:
        read_fonts(str(root))
    message = str(error.value)
    assert message.startswith("dataset.root: ")
    assert str(root) in message
    assert "`mem data fonts`" in message
    assert ("none of the 1 fonts" in message and "a.ttf (" in message) == (content == "broken")


def test_the_message_without_default_folders_names_them(monkeypatch):
    for module in ("mem.runs.font_files", "mem.data.datasets.glyphs.fonts"):
        monkeypatch.setattr(f"{module}.FONT_FOLDERS", ("/nowhere/a", "/nowhere/b"))
    with pytest.raises(UserError, match=r"none of the default folders exists: /nowhere/a, /nowhere/b\. Download"):
        read_fonts(None)


# --- characters ----------------------------------------------------------------------------------------


def test_candidates_are_drawn_characters():
    assert all(is_candidate(ord(c)) for c in "Aλ9½€→_$«´")
    assert not any(map(is_candidate, map(ord, " \u00a0\u0301\ue000\n\u200b")))
    assert not is_candidate(0x1F600)  # not in Unicode 3.2


def test_class_names_are_ascii():
    assert class_name(ord("Ж")) == "U+0416 CYRILLIC CAPITAL LETTER ZHE"
    assert all(class_name(code).isascii() for code in range(0x21, 0x2500) if is_candidate(code))


@pytest.mark.parametrize("alike", ["AΑА", "oοо", "ËЁ", "ÏЇΪ", "ΩΩ", "ΠП", "-\u00ad‐", "μµ"])
def test_look_alikes_have_one_representative(alike):
    assert {look_alike(ord(c)) for c in alike} == {ord(alike[0])}


def test_other_characters_represent_themselves():
    assert all(look_alike(ord(c)) == ord(c) for c in "0OoIl1ЖиΣνvÁΆé")
    codes = [code for code in range(0x21, 0x3000) if is_candidate(code)]
    assert all(look_alike(look_alike(code)) == look_alike(code) for code in codes)
    singletons = [code for code in codes if len(unicodedata.decomposition(chr(code)).split()) == 1]
    canonical = [code for code in singletons if "<" not in unicodedata.decomposition(chr(code))]
    assert all(look_alike(code) != code for code in canonical)


# --- rendering -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".ttf", ".otf"])
def test_a_glyph_stands_on_the_baseline_with_its_advance_width_centred(tmp_path, suffix):
    boxes = {"A": (100, 0, 400, 700), "p": (100, -200, 400, 500), ".": (0, 0, 100, 100)}
    path = write_font(tmp_path / f"x{suffix}", boxes, boxes=boxes, widths={"A": 600, "p": 600, ".": 200})
    side, em = 32, 20
    for character, (left, bottom, right, top) in boxes.items():
        image = render(str(path), ord(character), side, em)
        expected = np.zeros((side, side), dtype=bool)
        start = (side - (200 if character == "." else 600) * em // 1000) // 2
        line = side // 2 + em // 4
        rows = slice(line - top * em // 1000, line - bottom * em // 1000)
        expected[rows, start + left * em // 1000 : start + right * em // 1000] = True
        np.testing.assert_array_equal(image > 127, expected, err_msg=character)
    assert baseline(side, em) == 21


def test_parts_outside_the_image_are_cut_off_and_invisible_glyphs_are_unreadable(tmp_path):
    boxes = {"A": (-2000, -2000, 3000, 3000), "B": (0, 5000, 500, 6000)}
    path = write_font(tmp_path / "x.ttf", "AB", boxes=boxes)
    assert render(str(path), ord("A"), 16, 10).min() == 255
    with pytest.raises(Unreadable, match="draws nothing inside the image"):
        render(str(path), ord("B"), 16, 10)
