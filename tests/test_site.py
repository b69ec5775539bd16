"""The documentation site: it builds without a warning, and its reference has every setting."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mem import config
from mem.reference import reference
from tests.conftest import REPOSITORY


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


def test_the_site_is_built_without_a_warning_and_starts_with_the_readme(site):
    home = (site / "index.html").read_text()
    assert "make demo" in home
    assert (site / "explanation" / "mem" / "index.html").exists()


def test_no_link_of_the_site_leads_nowhere(site):
    broken = []
    for page in site.rglob("*.html"):
        for link in re.findall(r'(?:href|src)="([^"#?]+)', page.read_text()):
            if re.match(r"[a-z]+:|//", link) or page.name == "404.html":
                continue
            target = (page.parent / link).resolve()
            if not (target / "index.html").exists() and not target.is_file():
                broken.append(f"{page.relative_to(site)}: {link}")
    assert not broken


def test_sources_of_figures_are_not_shown(site):
    results = (site / "results" / "fashion_readings" / "index.html").read_text()
    assert "<!-- figures:" in results
    for page in site.rglob("*.html"):
        shown = re.sub(r"<!--.*?-->", "", page.read_text(), flags=re.DOTALL)
        assert not re.search(r"&lt;!--|difference\(&quot;|score\(&quot;", shown), page


def test_the_reference_has_every_setting_with_its_meaning():
    page = reference()
    for section in (config.Study, config.Mem, config.Finetune, config.Pretrain, config.Features, config.LongTailCut):
        part = page[page.index("## The study" if section is config.Study else f"## {section.__name__}\n") :]
        part = part[: part.find("\n## ", 3)]
        for name, field in section.model_fields.items():
            assert f"| `{name}` |" in part
            if field.description:
                assert " ".join(field.description.split()).replace("|", "\\|") in part
