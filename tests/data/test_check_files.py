"""The check of a data set's files: missing, empty, of another archive, under another root or name."""

from __future__ import annotations

import shutil

import pytest

from mem.data.check.check import check, require_files
from mem.data.check.contents import image_format
from mem.data.check.findings import Severity
from mem.errors import UserError
from tests.data.twelve_classes import JPEG, PER_CLASS, entries, image_set, told


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
    assert "7 image files in 1 of the listed folders are in no list" in told(findings, Severity.NOTE)
    assert "c04 (7: new" in told(findings, Severity.NOTE)


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
    require_files(image_set(root))
    shutil.rmtree(root / "train/c11")
    (root / "train/c02/001.jpg").unlink()
    (root / "val/c03/000.jpg").write_bytes(b"")
    with pytest.raises(UserError) as error:
        require_files(image_set(root))
    text = str(error.value)
    assert f"1 files are missing: {root}/train/c02/001.jpg" in text
    assert f"4 files are missing with their folder: {root}/train/c11/000.jpg" in text
    assert f"1 files are empty (0 bytes): {root}/val/c03/000.jpg" in text
    (root / "train/c02/001.jpg").write_bytes(JPEG)
    (root / "train/c11").mkdir()
    for i in range(4):
        (root / f"train/c11/{i:03d}.jpg").write_bytes(JPEG)
    require_files(image_set(root), empty_too=False)


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
    assert image_format(start) == expected
