"""The check of a data set: each fault is told, with how many and which, and all of them in one go."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mem.cli import main
from mem.data.check import check, files_present
from mem.data.contents import kind
from mem.data.datasets import read_unproved
from mem.data.datasets.base import ImageSet, Split, split_of_files
from mem.data.datasets.known import Known
from mem.data.findings import Findings, Gravity
from mem.data.manifest import describe, known_differences, write_labels
from mem.errors import UserError
from tests.conftest import REPOSITORY
from tests.data import miniatures

JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF"
CLASSES = 12
PER_CLASS = {"train": 4, "val": 1, "test": 2}


def entries(split: str) -> list[tuple[str, int]]:
    """Twelve classes; class k has its images in the folder ck."""
    return [(f"{split}/c{k:02d}/{i:03d}.jpg", k) for k in range(CLASSES) for i in range(PER_CLASS[split])]


def image_set(root: Path, lists: dict[str, Sequence[tuple[str, int]]] | None = None, **more) -> ImageSet:
    lists = lists or {split: entries(split) for split in PER_CLASS}
    splits: dict[str, Split] = {}
    for split, rows in lists.items():
        paths = [path for path, _ in rows]
        splits[split] = split_of_files(str(root), paths, paths, np.array([label for _, label in rows], dtype=np.int64))
    return ImageSet(tuple(f"class {k}" for k in range(CLASSES)), **splits, **more)


@pytest.fixture
def root(tmp_path) -> Path:
    """The files of `image_set`, whole."""
    for split in PER_CLASS:
        for path, _ in entries(split):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(JPEG + path.encode())
    return tmp_path


def told(findings: Findings, gravity: Gravity = Gravity.WRONG) -> str:
    return "\n".join(line for finding in findings.of(gravity) for line in finding.lines())


def test_a_whole_data_set_is_fine(root):
    findings = check(image_set(root))
    assert findings.status == 0
    assert findings.found == []
    text = "\n".join(findings.lines())
    assert "84 files in 36 folders are all there, none is empty" in text
    assert "84 files that were looked into begin as images do" in text
    assert "each of 12 folders holds one label, the same one in every split" in text


# --- files ---------------------------------------------------------------------------------------------


def test_missing_files_are_counted_and_the_first_named(root):
    for k in (2, 5, 9):
        (root / f"train/c{k:02d}/001.jpg").unlink()
    findings = check(image_set(root))
    assert findings.status == 1
    assert "3 listed files are missing in 3 folders that are there" in told(findings)
    assert f"{root}/train/c02/001.jpg" in told(findings)


def test_empty_files_are_counted_and_named(root):
    (root / "val/c03/000.jpg").write_bytes(b"")
    findings = check(image_set(root))
    assert f"1 listed file is empty (0 bytes): {root}/val/c03/000.jpg" in told(findings)


def test_files_that_are_no_images_are_told_with_what_they_are(root):
    (root / "train/c00/000.jpg").write_bytes(b"<html>not found</html>")
    (root / "test/c01/001.jpg").write_bytes(bytes(100))
    text = told(check(image_set(root)))
    assert "Of 84 files that were looked into, 2 are no images" in text
    assert "train/c00/000.jpg (HTML, XML or JSON text)" in text
    assert "test/c01/001.jpg (zeros)" in text


def test_a_folder_or_a_dead_link_of_the_name_is_no_file(root):
    (root / "train/c00/000.jpg").unlink()
    (root / "train/c00/000.jpg").mkdir()
    (root / "train/c00/001.jpg").unlink()
    (root / "train/c00/001.jpg").symlink_to(root / "nowhere")
    assert "2 listed files are missing" in told(check(image_set(root)))


def test_surplus_images_are_a_note(root):
    for i in range(7):
        (root / f"train/c04/new{i}.JPEG").write_bytes(JPEG)
    (root / "train/c04/readme.txt").write_text("no image")
    findings = check(image_set(root))
    assert findings.status == 0
    assert "7 image files in 1 of the listed folders are in no list" in told(findings, Gravity.NOTE)
    assert "c04 (7: new" in told(findings, Gravity.NOTE)


def test_a_half_unpacked_archive_is_recognised_by_its_alphabetical_end(root):
    for k in (10, 11):
        shutil.rmtree(root / f"train/c{k}")
    text = told(check(image_set(root)))
    assert f"2 of 12 folders in {root}/train/ are missing, with 8 listed images: c10, c11" in text
    assert "last ones in alphabetical order. The archive was unpacked or copied only in part" in text


def test_a_folder_that_breaks_off_in_the_middle_is_recognised(root):
    for path in sorted((root / "train/c05").iterdir())[1:]:
        path.unlink()
    text = told(check(image_set(root)))
    assert "3 listed files are missing" in text
    assert "last ones in alphabetical order are missing: the archive was unpacked or copied only in part" in text


def test_missing_class_folders_in_the_middle_are_counted(root):
    for k in (1, 4):
        shutil.rmtree(root / f"test/c{k:02d}")
    text = told(check(image_set(root)))
    assert f"2 of 12 folders in {root}/test/ are missing, with 4 listed images: c01, c04" in text
    assert "alphabetical" not in text


def test_archives_beside_the_missing_folders_are_named(root):
    for k in (1, 4):
        shutil.rmtree(root / f"train/c{k:02d}")
        (root / f"train/c{k:02d}.tar").write_bytes(b"x")
    assert f"Not unpacked: c01.tar, c04.tar in {root}/train/" in told(check(image_set(root)))


def test_the_other_archive_of_places_is_recognised(root):
    (root / "train").rename(root / "data_256")
    (root / "val").rename(root / "val_256")
    text = told(check(image_set(root)))
    assert "2 of 3 folders" in text
    assert "The lists say train/, val/; on disk there is data_256/, val_256/: another archive of Places" in text


def test_a_root_that_lies_too_high_is_recognised(root, tmp_path_factory):
    above = tmp_path_factory.mktemp("above")
    (above / "ILSVRC/Data").mkdir(parents=True)
    shutil.move(root, above / "ILSVRC/Data/CLS-LOC")
    text = told(check(image_set(above)))
    assert f"set the root in the study to {above}/ILSVRC/Data/CLS-LOC" in text


def test_a_root_that_lies_too_low_is_recognised(root):
    lists = {split: entries(split) for split in PER_CLASS}
    text = told(check(image_set(root / "train", lists)))
    assert f"set the root in the study to {root}" in text


def test_a_root_that_is_not_there_says_so(tmp_path):
    text = told(check(image_set(tmp_path / "nowhere")))
    assert f"84 listed images lie in {tmp_path}/nowhere/, which does not exist" in text


def test_flat_images_are_recognised(root):
    for path in sorted((root / "val").glob("*/*.jpg")):
        path.rename(root / "val" / path.name)
        path.parent.rmdir()
    text = told(check(image_set(root)))
    assert f"The images lie in {root}/val/ itself" in text


def test_other_suffixes_are_recognised(root):
    for path in sorted((root / "test/c00").iterdir()):
        path.rename(path.with_suffix(".JPEG"))
    assert "nearly the same name (000.JPEG for 000.jpg)" in told(check(image_set(root)))


def test_other_capitals_are_recognised(root):
    (root / "train/c00").rename(root / "train/C00")
    assert "with other capitals" in told(check(image_set(root)))


def test_a_conversion_is_refused_with_all_that_is_not_there(root):
    files_present(image_set(root))
    shutil.rmtree(root / "train/c11")
    (root / "train/c02/001.jpg").unlink()
    (root / "val/c03/000.jpg").write_bytes(b"")
    with pytest.raises(UserError) as error:
        files_present(image_set(root))
    text = str(error.value)
    assert f"1 files are missing: {root}/train/c02/001.jpg" in text
    assert f"4 files are missing with their folder: {root}/train/c11/000.jpg" in text
    assert f"1 files are empty (0 bytes): {root}/val/c03/000.jpg" in text
    (root / "train/c02/001.jpg").write_bytes(JPEG)
    (root / "train/c11").mkdir()
    for i in range(4):
        (root / f"train/c11/{i:03d}.jpg").write_bytes(JPEG)
    files_present(image_set(root), empty_too=False)


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (b"\x89PNG\r\n\x1a\n", ""),
        (b"RIFF\x00\x00\x00\x00WEBP", ""),
        (b"P6\n2 2\n255\n", ""),
        (b"PK\x03\x04", "zip archive"),
        (b"version https://git-lfs.github.com", "Git LFS pointer"),
        (b"\n<!DOCTYPE html>", "HTML, XML or JSON text"),
        (b"PNG", "no image format"),
        (b"", "empty"),
    ],
)
def test_first_bytes_say_what_a_file_is(start, expected):
    assert kind(start) == expected


# --- counts and labels ---------------------------------------------------------------------------------


def known(**changes) -> Known:
    values = {
        "title": "Twelve (2026)",
        "images": {"train": 48, "val": 12, "test": 24},
        "classes": 12,
        "largest": 4,
        "smallest": 4,
        "groups": (0, 0, 12),
        "per_class": {"test": 2},
    }
    return Known(**{**values, **changes})


def test_published_counts_are_confirmed(root):
    findings = check(image_set(root, facts=known()))
    assert findings.status == 0
    assert any("counts are those of Twelve (2026)" in line for line in findings.fine)


def test_other_counts_than_the_published_are_all_told(root):
    images = image_set(root, facts=known(images={"train": 50, "test": 24}, groups=(1, 0, 11), per_class={"test": 3}))
    assert known_differences(images) == [
        "images of train: 48 here, 50 published",
        "classes of test without the published 3 images: 12",
        "many-shot classes (many>100 few<20): 0 here, 1 published",
        "few-shot classes (many>100 few<20): 12 here, 11 published",
    ]
    findings = check(images)
    assert findings.status == 1
    assert "images of train: 48 here, 50 published" in told(findings, Gravity.DOUBTFUL)


def test_a_holdout_counts_as_train(root):
    facts = known(images={"train": 60, "val": 0, "test": 24}, largest=5, smallest=5)
    assert known_differences(image_set(root, facts=facts, held_out=True)) == []
    assert known_differences(image_set(root, facts=facts)) != []


def test_a_class_without_a_training_image_is_named(root):
    lists = {split: entries(split) for split in PER_CLASS}
    lists["train"] = [row for row in lists["train"] if row[1] != 7]
    assert "1 class has no training image: class 7" in told(check(image_set(root, lists)))


def test_images_in_two_splits_and_twice_in_one_are_told_together(root):
    lists = {split: entries(split) for split in PER_CLASS}
    lists["test"] += lists["train"][:2]
    lists["train"] += lists["train"][:1]
    text = told(check(image_set(root, lists)))
    assert "1 image stands twice in train: train/c00/000.jpg" in text
    assert "2 images stand in train and in test: train/c00/000.jpg, train/c00/001.jpg" in text


def test_labels_that_are_numbered_otherwise_in_another_split_are_told(root):
    lists = {split: entries(split) for split in PER_CLASS}
    lists["test"] = [(path, 1 if path.startswith("test/c02") else label) for path, label in lists["test"]]
    text = told(check(image_set(root, lists)), Gravity.DOUBTFUL)
    assert "1 folder holds images of several labels: c02 (labels 1, 2)" in text


def test_folders_that_are_no_classes_raise_no_doubt(tmp_path):
    lists = {split: [(path.replace("/c", "/all"), label) for path, label in entries(split)] for split in PER_CLASS}
    lists = {
        split: [(f"{split}/all/{label}-{i}.jpg", label) for i, (_, label) in enumerate(rows)]
        for split, rows in lists.items()
    }
    assert not told(check(image_set(tmp_path, lists)), Gravity.DOUBTFUL)


def test_a_flat_split_beside_class_folders_raises_no_doubt(tmp_path):
    lists = {split: entries(split) for split in PER_CLASS}
    lists["test"] = [(f"val_256/{i}.jpg", label) for i, (_, label) in enumerate(lists["test"])]
    findings = check(image_set(tmp_path, lists))
    assert not findings.of(Gravity.DOUBTFUL)
    assert any("each of 12 folders holds one label" in line for line in findings.fine)


def test_numbered_folders_sorted_as_text_are_noted(root):
    order = sorted(map(str, range(CLASSES)))
    lists = {
        split: [(f"{split}/{order[k]}/{i}.jpg", k) for i, (_, k) in enumerate(entries(split))] for split in PER_CLASS
    }
    text = told(check(image_set(root, lists)), Gravity.NOTE)
    assert "Labels follow the numbers of the folders sorted as text: label 2 is folder 10" in text


def test_the_manifest_has_label_map_groups_and_verdict(root):
    manifest = describe(image_set(root, facts=known()))
    assert manifest["folders"][3] == "train/c03"
    assert manifest["shots"] == "many>100 few<20"
    assert manifest["groups"] == {"many": 0, "medium": 0, "few": 12}
    assert manifest["published"] == {"data_set": "Twelve (2026)", "agrees": True, "differences": []}


def test_the_label_map_is_written(root, tmp_path):
    write_labels(image_set(root), tmp_path / "labels.csv")
    lines = (tmp_path / "labels.csv").read_text().splitlines()
    assert lines[0] == "label,name,folder,train,val,test"
    assert lines[4] == "3,class 3,train/c03,4,1,2"
    assert len(lines) == 13


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
    findings = check(read_unproved(miniatures.settings(build(tmp_path)), 0))
    assert findings.status == 0
    assert any("are all there, none is empty" in line for line in findings.fine)


@pytest.mark.parametrize("build", PUBLISHED.values(), ids=PUBLISHED)
def test_a_miniature_of_a_published_data_set_has_its_files_but_not_its_counts(tmp_path, build):
    findings = check(read_unproved(miniatures.settings(build(tmp_path)), 0))
    assert not findings.of(Gravity.WRONG)
    assert "Counts are not those of" in told(findings, Gravity.DOUBTFUL)
    assert "images of train:" in told(findings, Gravity.DOUBTFUL)


def test_the_lists_of_one_layout_of_places_over_the_files_of_the_other_say_so(tmp_path):
    values = miniatures.places_lt(tmp_path / "easy")
    other = miniatures.places_lt(tmp_path / "other", easy=False)
    text = told(check(read_unproved(miniatures.settings(values | {"root": other["root"]}), 0)))
    assert "The lists say train/, val/; on disk there is data_256/, val_256/: another archive of Places" in text
    text = told(check(read_unproved(miniatures.settings(other | {"root": values["root"]}), 0)))
    assert "The lists say data_256/, val_256/; on disk there is train/, val/: another archive of Places" in text


# --- the whole -----------------------------------------------------------------------------------------


def test_everything_is_told_in_one_go_the_gravest_first(root):
    shutil.rmtree(root / "train/c11")
    (root / "val/c03/000.jpg").write_bytes(b"")
    (root / "train/c00/000.jpg").write_bytes(b"<html>")
    (root / "train/c00/more.jpg").write_bytes(JPEG)
    lists = {split: entries(split) for split in PER_CLASS}
    lists["test"] += lists["train"][:1]
    findings = check(image_set(root, lists, facts=known(), notes=("Two lines were empty.",)))
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
    images = read_unproved(miniatures.settings(values), 0)
    looked: list[int] = []
    findings = check(images, deep=True, done=looked.append)
    total = sum(map(len, images.splits.values()))
    assert sum(looked) == total
    assert f"2 of {total - 1} images that are there cannot be decoded" in told(findings)
    assert f"train/airfield/{cut.name} (" in told(findings)
    assert f"train/airfield/{text.name} (is no image file" in told(findings)
    assert "1 listed file is empty (0 bytes)" in told(findings)


def test_deep_finds_the_same_picture_in_train_and_test(tmp_path):
    values = miniatures.imagenet_lt(tmp_path)
    train = sorted((Path(values["root"]) / "train").rglob("*.JPEG"))
    test = sorted((Path(values["root"]) / "val").rglob("*.JPEG"))
    images = read_unproved(miniatures.settings(values), 0)
    first, second, third = (Path(images.train.files[i]) for i in (0, 1, 2))  # type: ignore[index]
    assert {first, second, third} <= set(train)
    shutil.copy(first, test[5])
    shutil.copy(second, third)
    findings = check(images, deep=True)
    text = told(findings, Gravity.DOUBTFUL)
    assert f"1 image of test has the content of an image of train: val/{test[5].name} = {images.train.names[0]}" in text
    assert "1 image of train has the content of an earlier one" in told(findings, Gravity.NOTE)


def test_the_digest_of_contents_changes_with_one_image_and_that_of_names_does_not(tmp_path):
    values = miniatures.folder_tree(tmp_path, classes=3)

    def digests() -> dict[str, str]:
        findings = check(read_unproved(miniatures.settings(values), 0), deep=True)
        return dict(line.split(": ") for line in findings.fine if line.startswith("digest"))

    before = digests()
    assert digests() == before
    miniatures.write_image(Path(values["root"]) / "train/class1/train0.png", 1, 1)
    after = digests()
    assert after["digest of names and labels"] == before["digest of names and labels"]
    assert after["digest of contents"] != before["digest of contents"]
