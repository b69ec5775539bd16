"""Image suffixes, which the folder reader, dataset checks and predictions share."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mem.config import Folder
from mem.data.codecs.decode import FORMATS, decode
from mem.data.codecs.suffixes import IMAGE_SUFFIXES, is_image_name
from mem.data.datasets.file_listing import list_folders
from mem.data.datasets.folder import read_folder
from mem.export import commands
from tests.data.conversions import PIXELS


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_a_file_with_an_image_suffix_can_be_decoded(suffix):
    kind = Image.registered_extensions()[suffix]
    assert kind in FORMATS
    image = Image.fromarray(np.full((12, 10, 3), 200, dtype=np.uint8))
    content = io.BytesIO()
    image.convert("1" if suffix == ".pbm" else "RGB").save(content, kind)
    assert decode(content.getvalue()).shape == (12, 10, 3)


def test_the_list_has_the_suffixes_of_all_supported_formats():
    """Except for those of animations, of several photos in a file, and of numbers without a defined range."""
    registered = {suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS}
    assert registered - set(IMAGE_SUFFIXES) == {".avifs", ".pfm"}


def test_reader_check_and_prediction_use_the_same_list(tmp_path):
    folder = tmp_path / "train" / "one"
    (folder / ".thumbnails").mkdir(parents=True)
    expected = [f"image{suffix}" for suffix in IMAGE_SUFFIXES] + ["IMAGE.JPE", "image.part.Jfif"]
    ignored = ["._image.jpg", ".jpg", ".hidden.png", ".thumbnails/image.jpg", "notes.txt", "image.jpg.part"]
    for name in (*expected, *ignored):
        (folder / name).write_bytes(b"not opened")
    values = {"source": "folder", "name": "tree", "root": str(tmp_path / "train"), "storage": "raw", **PIXELS}
    read = read_folder(Folder.model_validate({**values, "test": {"per_class": 1, "seed": 0}})).train
    listing = list_folders([read.take(np.zeros(1, dtype=np.int64))])[0]
    predicted = commands._file_names([str(tmp_path)], [])
    assert {Path(name).name for name in read.names} == set(expected)
    assert listing.unlisted == len(expected) - 1
    assert {Path(name).name for name in predicted} == set(expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("photo.jpg", True),
        ("PHOTO.JPEG", True),
        ("two.parts.Png", True),
        ("photo.jpg.txt", False),
        ("jpg", False),
        (".jpg", False),
        ("._photo.jpg", False),
        ("photo.jfif", True),
        ("archive.tar.gz", False),
    ],
)
def test_the_suffix_decides_in_lower_and_upper_case(name, expected):
    assert is_image_name(name) is expected
