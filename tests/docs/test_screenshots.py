"""Every screenshot in the documentation is made by a test and shown on a page."""

from __future__ import annotations

import re

from docs._site.screenshots import IMAGES, PICTURES, ROOT, TESTS


def test_every_screenshot_is_made_by_a_test():
    assert {path.stem for path in IMAGES.glob("*.png")} == set(PICTURES)
    defined = re.findall(r"^def (test_\w+)", (ROOT / TESTS).read_text(), re.MULTILINE)
    for test in PICTURES.values():
        assert sum(name.startswith(test) for name in defined) == 1, test


def test_every_picture_is_shown_on_a_page():
    pages = "".join(page.read_text() for page in (ROOT / "docs").rglob("*.md"))
    for picture in IMAGES.iterdir():
        assert f"images/{picture.name}" in pages, picture.name
