"""Image suffixes, which the folder reader, dataset checks and predictions share."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from mem.data.codecs.decode import FORMATS, decode
from mem.data.codecs.suffixes import IMAGE_SUFFIXES, is_image_name


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_a_file_with_an_image_suffix_can_be_decoded(suffix):
    kind = Image.registered_extensions()[suffix]
    assert kind in FORMATS
    image = Image.fromarray(np.full((12, 10, 3), 200, dtype=np.uint8))
    content = io.BytesIO()
    image.convert("1" if suffix == ".pbm" else "RGB").save(content, kind)
    assert decode(content.getvalue()).shape == (12, 10, 3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("photo.jpg", True),
        ("PHOTO.JPEG", True),
        ("two.parts.Png", True),
        ("photo.jpg.txt", False),
        ("jpg", False),
        (".jpg", False),
        ("archive.tar.gz", False),
    ],
)
def test_the_suffix_decides_in_lower_and_upper_case(name, expected):
    assert is_image_name(name) is expected
