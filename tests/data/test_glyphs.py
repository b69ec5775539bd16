"""Reader for Glyphs-LT: families, classes, counts and images of a cut."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mem.cli.main import main
from mem.config import Shots
from mem.data.check.check import check
from mem.data.check.findings import Severity
from mem.data.convert.convert import convert
from mem.data.datasets import ImageSet
from mem.data.datasets.glyphs.cut import _assign, choose_classes, split_families
from mem.data.datasets.published_counts import published_counts, published_quantiles
from mem.data.datasets.reference_counts import IMAGENET_LT, PLACES_LT
from mem.errors import UserError
from mem.longtail import shot_groups
from tests.config.studies import write_study
from tests.data.font_files import LETTERS, write_families, write_font
from tests.data.miniatures import glyphs, settings
from tests.data.reading import assert_same, counts_of, read, refusal

CLASSES = 6  # of `glyphs`


@pytest.fixture(scope="module")
def fonts(tmp_path_factory) -> Path:
    return write_families(tmp_path_factory.mktemp("fonts"))


def families_of(images: ImageSet, split: str) -> set[str]:
    return {name.rsplit("/", 2)[0] for name in images.splits[split].names}


@pytest.mark.parametrize("order", range(6))
def test_a_cut_has_the_counts_of_the_profile_and_disjoint_families(fonts, order):
    images = read(glyphs(fonts), order)
    assert len(images.classes) == CLASSES
    assert sorted(counts_of(images.train, CLASSES), reverse=True) == [12, 8, 5, 4, 2, 2]
    assert counts_of(images.test, CLASSES) == [3] * CLASSES
    assert {*counts_of(images.val, CLASSES)} <= {3, 4}
    used = {split: families_of(images, split) for split in images.splits}
    assert not used["train"] & used["val"] and not used["train"] & used["test"] and not used["val"] & used["test"]
    assert len(used["test"]) <= 3 and len(used["val"]) <= 2
    for split in images.splits.values():
        pairs = Counter((name.rsplit("/", 1)[0], label) for name, label in zip(split.names, split.labels, strict=True))
        assert set(pairs.values()) == {1}  # one image per face and class
        for name, label in zip(split.names, split.labels.tolist(), strict=True):
            assert images.classes[label].startswith(name.rsplit("/", 1)[1])


def test_each_class_order_is_an_independent_cut(fonts):
    cuts = [read(glyphs(fonts), order) for order in range(5)]
    assert len({frozenset(families_of(cut, "test")) for cut in cuts}) >= 4
    assert len({cut.classes for cut in cuts}) >= 3
    assert len({tuple(counts_of(cut.train, CLASSES)) for cut in cuts}) >= 3
    other_seed = read(glyphs(fonts, seed=1), 0)
    assert other_seed.train.names != cuts[0].train.names
    assert_same(read(glyphs(fonts), 3), cuts[3])


def test_the_images_of_a_cut_are_those_of_its_names(fonts):
    from mem.data.datasets.glyphs.render import render

    images = read(glyphs(fonts), 1)
    for i in range(0, len(images.train), 5):
        font, _, code = images.train.names[i].rpartition("/")
        expected = render(str(fonts / font), int(code.removeprefix("U+"), 16), 16, 12)
        found = images.train.read(i)
        assert isinstance(found, np.ndarray) and found.shape == (16, 16, 3)
        np.testing.assert_array_equal(found, np.repeat(expected[:, :, None], 3, axis=2))


def test_a_cut_does_not_depend_on_the_folders_above_the_fonts(fonts, tmp_path):
    (tmp_path / "usr" / "share").mkdir(parents=True)
    (tmp_path / "usr" / "share" / "fonts").symlink_to(fonts)
    assert_same(read(glyphs(tmp_path / "usr" / "share" / "fonts"), 2), read(glyphs(fonts), 2))
    write_families(tmp_path / "unpacked" / "deeply")
    assert_same(read(glyphs(tmp_path / "unpacked"), 2), read(glyphs(fonts), 2))


def test_a_set_that_is_made_twice_has_the_same_bytes(fonts, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        values = glyphs(fonts)
        convert(read(values, 1), settings(values), tmp_path / name, 1, lambda text: None)
    for file in ("train.beton", "val.beton", "test.beton", "images.csv", "dataset.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def test_the_manifest_and_the_check_contain_the_notes(fonts, tmp_path):
    values = glyphs(fonts)
    images = read(values, 1)
    manifest = convert(images, settings(values), tmp_path, 1, lambda text: None)
    assert manifest["notes"] == json.loads((tmp_path / "dataset.json").read_text())["notes"] == list(images.notes)
    assert images.notes[0] == "Fonts: 36 faces of 12 families"
    assert images.notes[1].startswith("Families: 7 in train, 2 in val, 3 in test. ")
    findings = check(images)
    assert not findings.of(Severity.ERROR)
    assert any(images.notes[0] in line for line in findings.lines())


def test_the_commands_check_and_show_glyphs(fonts, mini_values, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    study = write_study(tmp_path, mini_values | {"dataset": glyphs(fonts), "orders": [1, 2]})
    assert main(["data", "check", str(study), "--order", "2"]) == 0
    output = capsys.readouterr().out
    assert output.startswith("glyphs: 33 train, ")
    assert "Fonts: 36 faces of 12 families" in output.partition("NOTES")[2]
    assert main(["data", "show", str(study)]) == 0
    for path in capsys.readouterr().out.split():
        assert Path(path).read_bytes().startswith(b"\x89PNG")


def test_glyphs_that_cannot_be_drawn_are_skipped_by_default(tmp_path):
    root = write_families(tmp_path / "fonts")
    for font in sorted(root.rglob("family0[02]/*")):  # one of the two is in train, with every face
        style = f"Style{font.stem[-1]}"
        write_font(font, LETTERS, style=style, boxes={letter: (0, 9000, 500, 9500) for letter in LETTERS})
    values = glyphs(root, profile="natural", classes=None, largest=None, imbalance=None, val_minimum=2)
    images = read(values, 0)
    (tmp_path / "fail").mkdir()
    with pytest.raises(UserError, match=r"family0[02]/style\d.(otf|ttf)/U\+00\w\w draws nothing inside the image"):
        convert(images, settings(values | {"unreadable": "fail"}), tmp_path / "fail", 1, lambda text: None)
    said: list[str] = []
    (tmp_path / "skip").mkdir()
    manifest = convert(images, settings(values), tmp_path / "skip", 1, said.append)
    assert manifest["skipped"]["train"] > 0
    assert any("draws nothing inside the image" in text for text in said)


# --- profiles ------------------------------------------------------------------------------------------


def test_a_natural_tail_has_every_training_face_of_every_character(fonts):
    values = glyphs(
        fonts, profile="natural", classes=None, largest=None, imbalance=None, test_per_class=2, val_minimum=1
    )
    images = read(values, 0)
    train = families_of(images, "train")
    assert len(train) == 7
    for label, count in enumerate(counts_of(images.train, len(images.classes))):
        everywhere = chr(int(images.classes[label].split()[0][2:], 16)) in LETTERS[: len(LETTERS) // 2]
        assert count == 3 * sum(everywhere or int(family[-2:]) % 2 == 0 for family in train)
    assert read(values | {"classes": 3}, 0).classes != images.classes[:3]


@pytest.mark.parametrize(("name", "reference"), [("imagenet_lt", IMAGENET_LT), ("places_lt", PLACES_LT)])
def test_the_published_class_counts_agree_with_the_published_totals(name, reference):
    counts = published_counts(name)
    assert len(counts) == reference.classes
    assert counts.sum() == reference.images["train"]
    assert (counts[0], counts[-1]) == (reference.largest, reference.smallest)
    assert (np.diff(counts) <= 0).all()
    assert tuple(np.bincount(shot_groups(counts, Shots()), minlength=3)) == reference.groups


def test_fewer_classes_have_the_shape_of_the_published_counts():
    counts = published_counts("imagenet_lt")
    np.testing.assert_array_equal(published_quantiles("imagenet_lt", 1000), counts)
    quarter = published_quantiles("imagenet_lt", 250)
    assert (quarter[0], quarter[-1]) == (1280, 5)
    assert abs(quarter.sum() / (counts.sum() / 4) - 1) < 0.02
    assert tuple(np.bincount(shot_groups(quarter, Shots()))) == (96, 120, 34)
    with pytest.raises(UserError, match="1,001 classes, but the profile `imagenet_lt` has 1,000"):
        published_quantiles("imagenet_lt", 1001)


def test_a_count_that_no_character_reaches_is_reduced_and_noted(fonts):
    images = read(glyphs(fonts, largest=24), 0)
    assert max(counts_of(images.train, CLASSES)) == 21  # the faces of 7 families
    (note,) = [note for note in images.notes if "fewer training images" in note]
    assert note.startswith("1 class has fewer training images than the profile, because train has too few fonts: U+00")
    assert note.endswith(": 21 instead of 24")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"largest": 100, "imbalance": 50},
            "dataset.profile: the fonts of train are too few for the largest classes: U+",
        ),
        ({"test_families": 11}, "dataset.test_families and dataset.val_families: 11 + 2 are too many"),
        ({"classes": 17}, "dataset.classes: 17 classes, but only "),
        ({"test_per_class": 40}, "and 40 in test (test_per_class)"),
    ],
)
def test_settings_that_the_fonts_cannot_fulfil_are_refused(fonts, changes, message):
    assert message in refusal(glyphs(fonts, **changes))


@given(
    available=st.lists(st.integers(0, 12), min_size=1, max_size=9),
    wanted=st.lists(st.integers(1, 12), min_size=1, max_size=9),
)
def test_the_assignment_succeeds_if_any_assignment_does(available, wanted):
    counts = np.sort(wanted[: len(available)])[::-1]
    possible = (np.sort(available)[::-1][: len(counts)] >= counts).all()
    chosen = _assign(counts, np.asarray(available))
    assert len(set(chosen.tolist())) == len(counts)
    assert (np.asarray(available)[chosen] >= counts).all() == possible


def test_the_classes_of_many_cuts_cover_all_characters_that_qualify():
    available = np.stack([np.full(20, 50), np.full(20, 4), np.full(20, 3)])
    available[2, :4] = 2  # too few test faces
    values = settings(glyphs(Path("/fonts"), classes=5))
    seen: Counter[int] = Counter()
    for order in range(60):
        classes = choose_classes(available, np.arange(65, 85), values, order)
        assert classes.qualified == 16
        seen.update(classes.chosen.tolist())
    assert sorted(seen) == list(range(4, 20))


# --- families and faces --------------------------------------------------------------------------------


def test_large_families_are_always_in_train():
    faces = np.array([40, 30, *[3] * 20])
    values = settings(glyphs(Path("/fonts"), test_families=12, val_families=8))
    for order in range(20):
        splits = split_families(faces, values, order)
        assert splits[:2].tolist() == [0, 0]
        assert np.bincount(splits).tolist() == [2, 8, 12]
    with pytest.raises(UserError, match="13 \\+ 8 are too many"):
        split_families(faces, values.model_copy(update={"test_families": 13}), 0)


def test_the_test_images_of_a_class_are_from_as_many_families_as_possible(fonts):
    for order in range(4):
        images = read(glyphs(fonts, test_families=5, test_per_class=5, val_families=2), order)
        for label in range(CLASSES):
            names = [name for name, k in zip(images.test.names, images.test.labels, strict=True) if k == label]
            per_family = Counter(name.rsplit("/", 2)[0] for name in names)
            drawing = sum(
                chr(int(images.classes[label][2:6], 16)) in LETTERS[: len(LETTERS) // 2] or int(family[-2:]) % 2 == 0
                for family in families_of(images, "test")
            )
            assert len(per_family) == drawing
            assert max(per_family.values()) - min(per_family.values()) <= 1


# --- look-alikes ---------------------------------------------------------------------------------------

ALIKE = "AΑА"


@pytest.fixture(scope="module")
def alike_fonts(tmp_path_factory) -> Path:
    """Return fonts that draw A and its look-alikes; every fourth family draws only the look-alikes."""
    root = tmp_path_factory.mktemp("alike")
    for family in range(12):
        for face in range(3):
            characters = "BCDEF" + (ALIKE if family % 4 else ALIKE[1:])
            write_font(root / f"family{family:02d}" / f"style{face}.ttf", characters, face, style=f"Style{face}")
    return root


def test_look_alikes_are_kept_or_merged_into_one_class(alike_fonts):
    values = glyphs(
        alike_fonts, profile="natural", classes=None, largest=None, imbalance=None, val_minimum=1, test_per_class=1
    )
    kept, merged = read(values, 0), read(values | {"look_alikes": "merge"}, 0)
    names = {"LATIN CAPITAL LETTER A", "GREEK CAPITAL LETTER ALPHA", "CYRILLIC CAPITAL LETTER A"}
    assert names & {name.split(" ", 1)[1] for name in kept.classes} == names
    assert names & {name.split(" ", 1)[1] for name in merged.classes} == {"LATIN CAPITAL LETTER A"}
    label = merged.classes.index("U+0041 LATIN CAPITAL LETTER A")
    images = [name for name, k in zip(merged.train.names, merged.train.labels, strict=True) if k == label]
    faces = Counter(name.rpartition("/")[0] for name in images)
    assert set(faces.values()) == {1}  # a face that draws several look-alikes has one image
    assert len(faces) == len({name.rpartition("/")[0] for name in merged.train.names})
    for name in images:
        greek_only = int(name.split("/")[0][-2:]) % 4 == 0
        assert name.endswith("U+0391" if greek_only else "U+0041")
