"""The check of a data set: each fault is told, with how many and which, and all of them in one go."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mem.cli.main import main
from mem.data.check.check import check
from mem.data.check.findings import Severity
from mem.data.datasets import read_unchecked
from tests.conftest import REPOSITORY
from tests.data import miniatures
from tests.data.twelve_classes import JPEG, PER_CLASS, entries, image_set, known, told


def test_a_whole_data_set_is_fine(root):
    findings = check(image_set(root))
    assert findings.status == 0
    assert findings.found == []
    text = "\n".join(findings.lines())
    assert "84 files in 36 folders are all there, none is empty" in text
    assert "84 files that were looked into begin as images do" in text
    assert "each of 12 folders holds one label, the same one in every split" in text


# --- data sets in miniature ----------------------------------------------------------------------------

PUBLISHED = {
    "imagenet_lt": miniatures.imagenet_lt,
    "imagenet_lt, flat val": lambda folder: miniatures.imagenet_lt(folder, synset_folders=False),
    "places_lt": miniatures.places_lt,
    "places_lt, data_256": lambda folder: miniatures.places_lt(folder, easy=False),
    "inaturalist_2018": miniatures.inaturalist_2018,
    "inaturalist_2018, lists": lambda folder: miniatures.inaturalist_2018(folder, json_form=False),
}
OWN = {
    "folders": miniatures.folder_tree,
    "one tree": lambda folder: miniatures.folder_tree(folder, split_folders=False),
    "lists": lambda folder: miniatures.long_tailed_png(folder, classes=20),
    "table": miniatures.table,
}


@pytest.mark.parametrize("build", OWN.values(), ids=OWN)
def test_own_data_in_every_form_are_fine(tmp_path, build):
    findings = check(read_unchecked(miniatures.settings(build(tmp_path)), 0))
    assert findings.status == 0
    assert any("are all there, none is empty" in line for line in findings.fine)


@pytest.mark.parametrize("build", PUBLISHED.values(), ids=PUBLISHED)
def test_a_miniature_of_a_published_data_set_has_its_files_but_not_its_counts(tmp_path, build):
    findings = check(read_unchecked(miniatures.settings(build(tmp_path)), 0))
    assert not findings.of(Severity.WRONG)
    assert "Counts are not those of" in told(findings, Severity.DOUBTFUL)
    assert "images of train:" in told(findings, Severity.DOUBTFUL)


def test_the_lists_of_one_layout_of_places_over_the_files_of_the_other_say_so(tmp_path):
    values = miniatures.places_lt(tmp_path / "easy")
    other = miniatures.places_lt(tmp_path / "other", easy=False)
    text = told(check(read_unchecked(miniatures.settings(values | {"root": other["root"]}), 0)))
    assert "The lists say train/, val/; on disk there is data_256/, val_256/: another archive of Places" in text
    text = told(check(read_unchecked(miniatures.settings(other | {"root": values["root"]}), 0)))
    assert "The lists say data_256/, val_256/; on disk there is train/, val/: another archive of Places" in text


# --- the whole -----------------------------------------------------------------------------------------


def test_everything_is_told_in_one_go_the_gravest_first(root):
    shutil.rmtree(root / "train/c11")
    (root / "val/c03/000.jpg").write_bytes(b"")
    (root / "train/c00/000.jpg").write_bytes(b"<html>")
    (root / "train/c00/more.jpg").write_bytes(JPEG)
    lists = {split: entries(split) for split in PER_CLASS}
    lists["test"] += lists["train"][:1]
    findings = check(image_set(root, lists, reference=known(), notes=("Two lines were empty.",)))
    text = "\n".join(findings.lines())
    for part in (
        "stands in train and in test",
        "c11",
        "empty (0 bytes)",
        "is no image",
        "Counts are not",
        "in no list",
    ):
        assert part in text
    assert text.index("WRONG") < text.index("DOUBTFUL") < text.index("NOTED") < text.index("FINE")
    assert "Two lines were empty." in text


def test_the_command_checks_a_study_and_says_what_to_do_next(capsys, tmp_path):
    mini = str(REPOSITORY / "tests" / "mini.yaml")
    assert main(["data", "check", mini, "--labels", str(tmp_path / "labels.csv")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("mini_digits: 489 train, 100 val, 200 test images in 10 classes\n  110 to 5 training images")
    assert out.splitlines()[-1].startswith("Next: mem data show")
    assert (tmp_path / "labels.csv").is_file()


def test_data_that_cannot_be_read_end_with_status_2(capsys, tmp_path):
    over = tmp_path / "over.yaml"
    over.write_text("dataset: {cut: {counts: [1000, 5, 5, 5, 5, 5, 5, 5, 5, 5]}}\n")
    assert main(["data", "check", str(REPOSITORY / "tests" / "mini.yaml"), str(over)]) == 2
    assert "class 0 has" in capsys.readouterr().err


# --- deep ----------------------------------------------------------------------------------------------


def test_deep_names_every_image_that_does_not_decode(tmp_path):
    values = miniatures.places_lt(tmp_path)
    root = Path(values["root"])
    cut, text, empty = sorted((root / "train").rglob("*.jpg"))[:3]
    cut.write_bytes(cut.read_bytes()[:300])
    text.write_bytes(b"<html>not found</html>")
    empty.write_bytes(b"")
    images = read_unchecked(miniatures.settings(values), 0)
    looked: list[int] = []
    findings = check(images, deep=True, done=looked.append)
    total = sum(map(len, images.splits.values()))
    assert sum(looked) == total
    assert f"2 of {total - 1} images that are there cannot be decoded" in told(findings)
    assert f"train/airfield/{cut.name} (" in told(findings)
    assert f"train/airfield/{text.name} (is not in a supported image format" in told(findings)
    assert "1 listed file is empty (0 bytes)" in told(findings)


def test_deep_finds_the_same_picture_in_train_and_test(tmp_path):
    values = miniatures.imagenet_lt(tmp_path)
    train = sorted((Path(values["root"]) / "train").rglob("*.JPEG"))
    test = sorted((Path(values["root"]) / "val").rglob("*.JPEG"))
    images = read_unchecked(miniatures.settings(values), 0)
    first, second, third = (Path(images.train.files[i]) for i in (0, 1, 2))  # type: ignore[index]
    assert {first, second, third} <= set(train)
    shutil.copy(first, test[5])
    shutil.copy(second, third)
    findings = check(images, deep=True)
    text = told(findings, Severity.DOUBTFUL)
    assert f"1 image of test has the content of an image of train: val/{test[5].name} = {images.train.names[0]}" in text
    assert "1 image of train has the content of an earlier one" in told(findings, Severity.NOTE)


def test_the_digest_of_contents_changes_with_one_image_and_that_of_names_does_not(tmp_path):
    values = miniatures.folder_tree(tmp_path, classes=3)

    def digests() -> dict[str, str]:
        findings = check(read_unchecked(miniatures.settings(values), 0), deep=True)
        return dict(line.split(": ") for line in findings.fine if line.startswith("digest"))

    before = digests()
    assert digests() == before
    miniatures.write_image(Path(values["root"]) / "train/class1/train0.png", 1, 1)
    after = digests()
    assert after["digest of names and labels"] == before["digest of names and labels"]
    assert after["digest of contents"] != before["digest of contents"]
