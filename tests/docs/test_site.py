"""The documentation site builds without warnings, works without a network and a server, and describes every setting."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import element_to_be_clickable
from selenium.webdriver.support.wait import WebDriverWait

from docs._site.diagram import DIAGRAM, diagram
from docs._site.landing import METHODS, draw, plotted_values, recorded_values
from mem import config
from mem.config.reference import reference
from tests.conftest import REPOSITORY
from tests.workflow.browser import browser, wait_for_text

pytestmark = pytest.mark.stage
LOADED = re.compile(r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\ssrc=["']?([^"'\s>]+)""")
"""Addresses that a page loads. The addresses in links and metadata are not loaded."""
LINK_ELEMENT = re.compile(r"<link\b[^>]*>")
OF_METADATA = re.compile(r"""rel=["']?(?:canonical|prev|next|alternate)\b""")
STYLE_ADDRESS = re.compile(r"""url\(\s*["']?([^"')]+)|@import\s+["']([^"']+)""")


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


def is_external(address: str) -> bool:
    return bool(re.match(r"(?!data:|file:|about:)[a-zA-Z][a-zA-Z+.-]*:|//", address))


def external_addresses(html: str) -> list[str]:
    """Return the addresses outside the site that a page loads scripts, styles, fonts, frames or images from."""
    elements = [element for element in LINK_ELEMENT.findall(html) if not OF_METADATA.search(element)]
    hrefs = [address for element in elements for address in re.findall(r"""href=["']?([^"'\s>]+)""", element)]
    styles = "".join(re.findall(r"<style[^>]*>(.*?)</style>", html, re.DOTALL))
    return [address for address in (*LOADED.findall(html), *hrefs, *style_addresses(styles)) if is_external(address)]


def style_addresses(style: str) -> list[str]:
    return [address or imported for address, imported in STYLE_ADDRESS.findall(style)]


def test_the_site_builds_without_warnings_and_contains_the_start_page_and_the_readme(site):
    home = (site / "index.html").read_text()
    for picture in ("images/glyphs-shots.svg", "images/workflow.svg"):
        assert f'src="{picture}"' in home
        assert (site / picture).is_file()
    assert "make demo" in (site / "overview.html").read_text()
    assert (site / "explanation" / "mem.html").exists()


def test_no_page_loads_anything_from_elsewhere(site):
    for page in site.rglob("*.html"):
        assert external_addresses(page.read_text()) == [], page
        assert 'class="mermaid"' not in page.read_text(), f"the theme loads mermaid from elsewhere: {page}"
    for style in site.rglob("*.css"):
        assert [address for address in style_addresses(style.read_text()) if is_external(address)] == [], style


def test_external_addresses_are_found():
    html = """<link rel="canonical" href="https://a/x"><a href="https://b"><link rel=stylesheet href=//c/x.css>
    <script src='https://d/x.js'></script><img alt="x" src="pictures/x.png"><style>@import "http://e/x.css";
    body { background: url(https://f/x.png) } p { background: url(data:image/png;base64,AA) }</style>"""
    assert external_addresses(html) == ["https://d/x.js", "//c/x.css", "http://e/x.css", "https://f/x.png"]


def largest_pages(site: Path) -> list[Path]:
    """Return the start page, the overview and the largest page of each folder."""
    folders = [site, *sorted({page.parent for page in site.rglob("*.html")} - {site})]
    pages = [max(folder.glob("*.html"), key=lambda page: page.stat().st_size) for folder in folders]
    return [site / "index.html", site / "overview.html", *pages]


@pytest.fixture(scope="module")
def phone() -> Iterator[webdriver.Chrome]:
    """A browser as wide as a phone, in which every request to the network fails."""
    with browser(390, 844) as driver:
        driver.execute_cdp_cmd("Network.enable", {})
        conditions = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        driver.execute_cdp_cmd("Network.emulateNetworkConditions", conditions)
        yield driver


@pytest.mark.workflow
def test_pages_that_are_opened_as_files_fit_a_phone_and_need_no_network(site, phone):
    for page in largest_pages(site):
        phone.get(page.as_uri())
        width, screen = phone.execute_script(
            "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert width <= screen == 390, f"{page.relative_to(site)} is {width} pixels wide"
        # Requests for files are not recorded here, and requests to the network fail with a message.
        assert phone.execute_script("return performance.getEntriesByType('resource').map(e => e.name)") == []
        assert [entry["message"] for entry in phone.get_log("browser")] == []
        empty = "return [...document.images].filter(e => !e.complete || !e.naturalWidth).map(e => e.src)"
        assert phone.execute_script(empty) == [], page


@pytest.mark.workflow
def test_the_search_of_the_site_works_where_it_is_opened_as_a_file(site, phone):
    phone.get((site / "index.html").as_uri())
    phone.find_element(By.CSS_SELECTOR, ".md-header__button[for='__search']").click()
    field = WebDriverWait(phone, 60).until(element_to_be_clickable((By.CSS_SELECTOR, ".md-search__input")))
    field.send_keys("modulator")
    assert "The modulator" in wait_for_text(phone, lambda text: "matching document" in text, 60)
    result = phone.find_element(By.CSS_SELECTOR, ".md-search-result__link")
    assert str(result.get_attribute("href")).startswith(site.as_uri())


def test_the_start_page_shows_the_recorded_results():
    values = plotted_values()
    assert recorded_values() == values, "Run `make tables` and commit the figure."
    assert draw(values).count("<svg ") == 1
    ce, *others = values.values()
    assert all(groups["many"] < ce["many"] and groups["few"] > ce["few"] for groups in others)
    gains = {
        name: {shot: groups[shot][0] - ce[shot][0] for shot in ("many", "medium", "few")}
        for name, groups in values.items()
    }
    assert all(max(gain, key=gain.__getitem__) == "few" for name, gain in gains.items() if name != "CE")
    last = [values[METHODS[method]]["all"][0] for method in ("crt", "balanced_softmax", "mem")]
    assert max(last) - min(last) < 1


def test_the_diagram_of_the_stages_is_that_of_the_script():
    assert DIAGRAM.read_text() == diagram(), "Run `make tables` and commit the diagram."


def test_every_internal_link_of_the_site_exists(site):
    broken = []
    for page in site.rglob("*.html"):
        for link in re.findall(r'(?:href|src)="([^"#?]+)', page.read_text()):
            if is_external(link) or link.startswith("data:") or page.name == "404.html":
                continue
            target = (page.parent / link).resolve()
            if not target.is_file():  # without a server, the address of a folder shows a list of files
                broken.append(f"{page.relative_to(site)}: {link}")
    assert not broken


def test_result_tables_are_rendered_and_their_markers_are_hidden(site):
    results = (site / "results" / "fashion_readings.html").read_text()
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
