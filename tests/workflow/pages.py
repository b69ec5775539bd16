"""Browser checks for a study's report and its views in MLflow."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Collection, Sequence
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from mem.report.results import SHOTS, ScoreRow, from_csv
from tests.workflow.browser import browser, save_screenshot, text_of, wait_for_text

WIDTHS = [("desk", 1280), ("phone", 390)]


def rows_on_test(folder: Path, study: str) -> list[ScoreRow]:
    """Return the rows of a study's results.csv for the test split."""
    return [row for row in from_csv(folder / "results" / study / "report" / "results.csv") if row.split == "test"]


def check_report(folder: Path, study: str, device: str, width: int, heads: Collection[str]) -> str:
    """Check that the report fits the screen, names every head and loads nothing from the network.

    Returns the text of the report with all sections open.
    """
    with browser(width) as driver:
        driver.get((folder / "results" / study / "report" / "index.html").as_uri())
        save_screenshot(driver, f"{study}-report-{device}")
        check_first_screen(driver, heads)
        check_sorting(driver)
        for sections_open in (False, True):
            driver.execute_script(
                "document.querySelectorAll('details').forEach(e => e.open = arguments[0])", sections_open
            )
            page_width, screen_width = driver.execute_script(
                "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
            )
            assert page_width <= screen_width, f"the page is wider than the screen (sections open: {sections_open})"
        text = text_of(driver)
        image_widths = driver.execute_script(
            "return [...document.querySelectorAll('svg, img')].map(e => e.getBoundingClientRect().width)"
        )
        scrolling_tables = driver.execute_script(
            "return [...document.querySelectorAll('.scroll')]"
            ".flatMap((e, i) => e.scrollWidth > e.clientWidth && !e.querySelector('.small') ? [i] : [])"
        )
        resources = driver.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    for head in heads:
        assert head in text
    assert image_widths
    assert all(0 < width <= screen_width for width in image_widths), image_widths
    # On a phone, some tables scroll sideways, but not the first. On a desktop, only the list of runs scrolls.
    assert 0 not in scrolling_tables if device == "phone" else not scrolling_tables
    assert not [url for url in resources if url.startswith("http")]
    return text


def check_first_screen(driver: webdriver.Chrome, heads: Collection[str]) -> None:
    """Check the answer at the top, the choice of the baseline, and the links of the table of contents."""
    top = driver.find_element(By.ID, "top").text
    assert "on val" in top
    assert "on test" in top
    shown = (
        "return [...document.querySelectorAll('table.differences')].filter(e => !e.hidden).map(e => e.dataset.baseline)"
    )
    (first,) = driver.execute_script(shown)
    choice = Select(driver.find_element(By.CSS_SELECTOR, "figure#answer select"))
    assert {option.text for option in choice.options} == set(heads)
    other = next(head for head in heads if head != first)
    choice.select_by_visible_text(other)
    assert driver.execute_script(shown) == [other]
    choice.select_by_visible_text(first)
    missing = driver.execute_script(
        "return [...document.querySelectorAll('nav a')].map(e => e.hash).filter(h => !document.querySelector(h))"
    )
    assert not missing, missing


def check_sorting(driver: webdriver.Chrome) -> None:
    """Check that a click on a column of the first table sorts its lines by number, and a second click reverses them."""
    rows = "[...document.querySelector('#accuracy tbody').rows]"
    cells = f"return {rows}.map(row => parseFloat(row.lastElementChild.textContent))"
    header = driver.find_element(By.CSS_SELECTOR, "#accuracy thead th:last-child")
    for descending in (True, False):
        driver.execute_script("arguments[0].click()", header)
        numbers = driver.execute_script(cells)
        assert numbers == sorted(numbers, reverse=descending)
        assert header.get_attribute("aria-sort") == ("descending" if descending else "ascending")


def check_mlflow_views(folder: Path, study: str, heads: Sequence[str], screenshot: str) -> None:
    """Follow the addresses that `mem track ui STUDY` prints: to a table of all heads, and in one click to charts.

    Checks that the table shows the names of a study's heads and their accuracies on test, and no other runs.
    """
    command = [sys.executable, "-m", "mem.cli", "track", "ui", study, "--port", str(_free_port())]
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    with tempfile.TemporaryFile("w+") as out:
        ui = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=subprocess.DEVNULL)
        try:
            _wait_for_server(int(command[-1]), ui)
            out.seek(0)
            addresses = {found[1]: found[0] for found in re.finditer(rf"http\S+=mem\.{study}\.(\w+)\S+", out.read())}
            with browser(1500, 1000) as driver:
                # Close the assistant panel, which MLflow opens on the first visit.
                driver.get(addresses["heads"].partition("#")[0])
                driver.execute_script(
                    "for (const [name, value] of [['fab.autoOpenedOnFirstLoad_v1', 'true'], ['panelOpen_v1', 'false']])"
                    " localStorage.setItem('mlflow.assistant.' + name, value)"
                )
                _check_table(driver, addresses["heads"], rows_on_test(folder, study), heads, screenshot)
                driver.find_element(By.CSS_SELECTOR, "label:has(input[value='CHART'])").click()
                _check_parallel_coordinates(driver, heads, screenshot)
                driver.get(addresses["finetune"])
                wait_for_text(driver, lambda text: "finetune (cross-entropy" in text and "pretrain (" not in text)
        finally:
            ui.terminate()
            ui.wait(60)


def _check_table(
    driver: webdriver.Chrome, address: str, rows: Sequence[ScoreRow], heads: Sequence[str], screenshot: str
) -> None:
    driver.get(address)
    accuracies = [f"{getattr(row, shot):.6g}" for row in rows for shot in SHOTS]
    text = wait_for_text(
        driver,
        lambda text: (
            f"{len(rows)} matching runs" in text and all(accuracy in text.splitlines() for accuracy in accuracies)
        ),
    )
    lines = text.splitlines()
    for head in heads:
        assert any(line.startswith((f"{head} (", f"{head} ·")) and line.endswith("· seed 0") for line in lines), text
    headers = driver.execute_script(
        "return [...document.querySelectorAll('.ag-header-cell')]"
        ".map(e => [e.getBoundingClientRect().left, e.innerText.trim()]).sort((a, b) => a[0] - b[0]).map(e => e[1])"
    )
    assert [name for name in headers if name.startswith("test/")] == [f"test/{shot}" for shot in SHOTS]
    save_screenshot(driver, f"{screenshot}-table")


def _check_parallel_coordinates(driver: webdriver.Chrome, heads: Sequence[str], screenshot: str) -> None:
    text = wait_for_text(
        driver,
        lambda text: (
            "Settings and accuracy on test: all heads" in text
            and text.count("Parallel Coordinates") >= 2
            and text.count("test/all") >= 2
        ),
    )
    axes = text.partition("Parallel Coordinates")[2].partition("test/many")[0].splitlines()
    assert set(heads) <= set(axes), "the first axis contains the heads"
    assert "head.training.lr" in text
    save_screenshot(driver, f"{screenshot}-parallel")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for_server(port: int, ui: subprocess.Popen, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while True:
        assert ui.poll() is None, "the UI exited"
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10).close()
            return
        except OSError:
            assert time.monotonic() < deadline, "the UI does not respond"
            time.sleep(1)
