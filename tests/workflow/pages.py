"""Browser checks for a study's report and MLflow's compare view."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Collection, Sequence
from pathlib import Path
from urllib.parse import quote

from mlflow.tracking import MlflowClient
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from mem.report.results import ScoreRow, from_csv
from mem.tracking import server
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


def check_compare_view(folder: Path, study: str, heads: Sequence[str], screenshot: str, seed: int = 0) -> None:
    """Check that MLflow's compare view shows the names of a study's heads and their accuracies on test."""
    client = MlflowClient(server.tracking_uri(folder))
    experiment = client.get_experiment_by_name(study)
    assert experiment is not None, f"no experiment {study}: mem track sync"
    # Tests may have added runs with changed settings. For each head, use the oldest run, which is that of the study.
    query = f"tags.stage = 'train_head' and tags.seed = '{seed}'"
    runs = client.search_runs([experiment.experiment_id], query, order_by=["start_time ASC"])
    run_of_head = {run.data.tags["variant"]: run for run in reversed(runs)}
    assert set(run_of_head) == set(heads)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mem.cli", "track", "ui", "--port", str(port)]
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    ui = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for_server(port, ui)
        ids = quote(json.dumps([run.info.run_id for run in run_of_head.values()]))
        experiments = quote(json.dumps([experiment.experiment_id]))
        with browser(1500, 1400) as driver:
            address = f"http://127.0.0.1:{port}/"
            # Close the assistant panel: it covers part of the table, which renders only visible columns.
            driver.get(address)
            driver.execute_script(
                "for (const [name, value] of [['fab.autoOpenedOnFirstLoad_v1', 'true'], ['panelOpen_v1', 'false']])"
                " localStorage.setItem('mlflow.assistant.' + name, value)"
            )
            driver.get(f"{address}#/compare-runs?runs={ids}&experiments={experiments}")
            names = [str(run.info.run_name) for run in run_of_head.values()]
            accuracies = [row.all for row in rows_on_test(folder, study) if row.seed == seed]
            text = wait_for_text(
                driver,
                lambda text: (
                    all(name in text for name in names)
                    and "test/all" in text
                    and all(f"{accuracy:g}" in text.splitlines() for accuracy in accuracies)
                ),
            )
            for section in ("Visualizations", "Parameters"):
                driver.find_element(By.XPATH, f"//*[normalize-space(text())='{section}']").click()
            wait_for_text(
                driver, lambda text: "Parallel Coordinates Plot" not in text and "head.classifier" not in text
            )
            save_screenshot(driver, screenshot)
        assert f"Comparing {len(heads)} Runs from 1 Experiment" in text
    finally:
        ui.terminate()
        ui.wait(30)


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
