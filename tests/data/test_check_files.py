"""Checks for image files that are missing, empty, from a different archive, below a different root, or renamed."""

from __future__ import annotations

import io
import shutil

import pytest
from PIL import Image

from mem.data.check.check import check
from mem.data.check.contents import non_image_format
from mem.data.check.findings import Severity
from mem.data.codecs.decode import FORMATS, decode
from mem.data.datasets.file_listing import require_files
from mem.errors import UserError
from tests.data.twelve_classes import JPEG, image_set, printed


def test_missing_files_are_reported_with_examples(root):
    for k in (2, 5, 9):
        (root / f"train/c{k:02d}/001.jpg").unlink()
    findings = check(image_set(root))
    assert findings.status == 1
    assert "3 listed files are missing in 3 existing folders" in printed(findings)
    assert f"{root}/train/c02/001.jpg" in printed(findings)


def test_empty_files_are_reported_with_examples(root):
    (root / "val/c03/000.jpg").write_bytes(b"")
    findings = check(image_set(root))
    assert f"1 listed file is empty (0 bytes): {root}/val/c03/000.jpg" in printed(findings)


def test_files_that_are_not_images_are_reported_with_their_format(root):
    (root / "train/c00/000.jpg").write_bytes(b"<html>not found</html>")
    (root / "test/c01/001.jpg").write_bytes(bytes(100))
    text = printed(check(image_set(root)))
    assert "2 of 84 sampled files are not images" in text
    assert "train/c00/000.jpg (HTML, XML or JSON text)" in text
    assert "test/c01/001.jpg (zeros)" in text


def test_heic_files_are_reported_with_the_formats_that_can_be_read(root):
    (root / "train/c00/000.jpg").write_bytes(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic")
    text = printed(check(image_set(root)))
    assert "1 of 84 sampled files is not an image that mem can read" in text
    assert "train/c00/000.jpg (HEIC)" in text
    assert "Convert HEIC files to JPEG or PNG." in text


def test_every_format_that_can_be_decoded_has_a_known_start():
    for kind, options in [*((kind, {}) for kind in FORMATS), ("TIFF", {"big_tiff": True})]:
        file = io.BytesIO()
        Image.new("RGB", (16, 16)).save(file, kind, **options)
        assert decode(file.getvalue()).shape == (16, 16, 3)
        assert non_image_format(file.getvalue()[:64]) == "", kind
    avif = b"\x00\x00\x00\x1cftypmif1\x00\x00\x00\x00mif1avifmiaf"
    assert non_image_format(avif) == ""
    assert non_image_format(avif.replace(b"avif", b"heic")) == "HEIC"


def test_a_folder_or_dead_link_in_place_of_a_file_is_a_missing_file(root):
    (root / "train/c00/000.jpg").unlink()
    (root / "train/c00/000.jpg").mkdir()
    (root / "train/c00/001.jpg").unlink()
    (root / "train/c00/001.jpg").symlink_to(root / "nowhere")
    assert "2 listed files are missing" in printed(check(image_set(root)))


def test_unlisted_images_give_a_note(root):
    for i in range(7):
        (root / f"train/c04/new{i}.JPEG").write_bytes(JPEG)
    (root / "train/c04/readme.txt").write_text("not an image")
    findings = check(image_set(root))
    assert findings.status == 0
    assert "7 image files are not in any list, in 1 folder: " in printed(findings, Severity.NOTE)
    assert "c04 (7: new" in printed(findings, Severity.NOTE)


def test_a_partly_unpacked_archive_is_recognised_by_its_missing_last_folders(root):
    for k in (10, 11):
        shutil.rmtree(root / f"train/c{k}")
    text = printed(check(image_set(root)))
    assert f"2 of 12 folders in {root}/train/ with 8 listed images do not exist: c10, c11" in text
    assert "last ones in alphabetical order. The archive was only partially unpacked or copied" in text


def test_a_partly_unpacked_folder_is_recognised_by_its_missing_last_files(root):
    for path in sorted((root / "train/c05").iterdir())[1:]:
        path.unlink()
    text = printed(check(image_set(root)))
    assert "3 listed files are missing" in text
    assert "last ones in alphabetical order in" in text
    assert "The archive was only partially unpacked or copied" in text


def test_other_missing_class_folders_are_counted(root):
    for k in (1, 4):
        shutil.rmtree(root / f"test/c{k:02d}")
    text = printed(check(image_set(root)))
    assert f"2 of 12 folders in {root}/test/ with 4 listed images do not exist: c01, c04" in text
    assert "alphabetical" not in text


def test_packed_archives_of_missing_folders_are_reported(root):
    for k in (1, 4):
        shutil.rmtree(root / f"train/c{k:02d}")
        (root / f"train/c{k:02d}.tar").write_bytes(b"x")
    assert f"Not unpacked: c01.tar, c04.tar in {root}/train/" in printed(check(image_set(root)))


def test_another_archive_of_places_is_recognised(root):
    (root / "train").rename(root / "data_256")
    (root / "val").rename(root / "val_256")
    text = printed(check(image_set(root)))
    assert "2 of 3 folders" in text
    assert "The lists refer to train/, val/, but data_256/, val_256/ is on disk: a different Places archive" in text


def test_a_root_that_is_too_high_is_recognised(root, tmp_path_factory):
    above = tmp_path_factory.mktemp("above")
    (above / "ILSVRC/Data").mkdir(parents=True)
    shutil.move(root, above / "ILSVRC/Data/CLS-LOC")
    text = printed(check(image_set(above)))
    assert f"Set the root in the study to {above}/ILSVRC/Data/CLS-LOC" in text


def test_a_root_that_is_too_low_is_recognised(root):
    text = printed(check(image_set(root / "train")))
    assert f"Set the root in the study to {root}" in text


def test_a_missing_root_is_reported(tmp_path):
    text = printed(check(image_set(tmp_path / "nowhere")))
    assert f"The folder {tmp_path}/nowhere/ with 84 listed images does not exist" in text


def test_images_without_class_folders_are_recognised(root):
    for path in sorted((root / "val").glob("*/*.jpg")):
        path.rename(root / "val" / path.name)
        path.parent.rmdir()
    text = printed(check(image_set(root)))
    assert f"The images are directly in {root}/val/" in text


def test_other_suffixes_are_recognised(root):
    for path in sorted((root / "test/c00").iterdir()):
        path.rename(path.with_suffix(".JPEG"))
    assert "Files with a similar name exist (000.JPEG for 000.jpg)" in printed(check(image_set(root)))


def test_different_capitalisation_is_recognised(root):
    (root / "train/c00").rename(root / "train/C00")
    assert "with different capitalisation" in printed(check(image_set(root)))


def test_a_conversion_is_refused_with_all_missing_and_empty_files(root):
    require_files(image_set(root))
    shutil.rmtree(root / "train/c11")
    (root / "train/c02/001.jpg").unlink()
    (root / "val/c03/000.jpg").write_bytes(b"")
    with pytest.raises(UserError) as error:
        require_files(image_set(root))
    text = str(error.value)
    assert f"missing files (1): {root}/train/c02/001.jpg" in text
    assert f"files in missing folders (4): {root}/train/c11/000.jpg" in text
    assert f"empty files (1): {root}/val/c03/000.jpg" in text
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
        (b"PNG", "unknown format"),
        (b"P7\nWIDTH 2\n", "unknown format"),
        (b"II+\x00\x08\x00\x00\x00", ""),
        (b"\x00\x00\x00\x1cftypheic\x00\x00\x00\x00mif1heicmiaf", "HEIC"),
        (b"\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00mif1heic", "HEIC"),
        (b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isomiso2", "video or other media file"),
        (b"", "empty"),
    ],
)
def test_the_first_bytes_determine_the_format(start, expected):
    assert non_image_format(start) == expected
