"""The documentation site builds without warnings, has no broken links, and describes every setting."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mem import config
from mem.config.reference import reference
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.stage


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=REPOSITORY,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_the_site_builds_without_warnings_and_starts_with_the_readme(site):
    home = (site / "index.html").read_text()
    assert "make demo" in home
    assert (site / "explanation" / "mem" / "index.html").exists()


def test_every_internal_link_of_the_site_exists(site):
    broken = []
    for page in site.rglob("*.html"):
        for link in re.findall(r'(?:href|src)="([^"#?]+)', page.read_text()):
            if re.match(r"[a-z]+:|//", link) or page.name == "404.html":
                continue
            target = (page.parent / link).resolve()
            if not (target / "index.html").exists() and not target.is_file():
                broken.append(f"{page.relative_to(site)}: {link}")
    assert not broken


def test_result_tables_are_rendered_and_their_markers_are_hidden(site):
    results = (site / "results" / "fashion_readings" / "index.html").read_text()
    assert re.search(r"<td[^>]*>mem\.crt\.frozen\.class_balanced\.free</td>", results)
    for page in site.rglob("*.html"):
        assert "&lt;!--" not in page.read_text(), page


def test_the_reference_describes_every_setting():
    page = reference()
    for section in (config.Study, config.Mem, config.Finetune, config.Pretrain, config.Features, config.LongTailCut):
        part = page[page.index("## The study" if section is config.Study else f"## {section.__name__}\n") :]
        part = part[: part.find("\n## ", 3)]
        for name, field in section.model_fields.items():
            assert f"| `{name}` |" in part
            if field.description:
                assert " ".join(field.description.split()).replace("|", "\\|") in part
