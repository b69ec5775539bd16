"""What a study's report and MLflow's compare view must show in a real browser."""

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
from selenium.webdriver.common.by import By

from mem.report.results import ScoreRow, from_csv
from mem.tracking import server
from tests.workflow.browser import browser, keep_picture, shown, text_of

WIDTHS = [("desk", 1280), ("phone", 390)]


def rows_on_test(folder: Path, study: str) -> list[ScoreRow]:
    """The lines of a study's results.csv that are of test."""
    return [row for row in from_csv(folder / "results" / study / "report" / "results.csv") if row.split == "test"]


def assert_report_reads(folder: Path, study: str, device: str, width: int, heads: Collection[str]) -> str:
    """The report fits the screen, names every head, and fetches nothing; its text, with all that is folded open."""
    with browser(width) as driver:
        driver.get((folder / "results" / study / "report" / "index.html").as_uri())
        keep_picture(driver, f"{study}-report-{device}")
        for unfolded in (False, True):
            driver.execute_script("document.querySelectorAll('details').forEach(e => e.open = arguments[0])", unfolded)
            wide, seen = driver.execute_script(
                "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
            )
            assert wide <= seen, f"the page is wider than the screen (unfolded: {unfolded})"
        text = text_of(driver)
        pictures = driver.execute_script(
            "return [...document.querySelectorAll('svg, img')].map(e => e.getBoundingClientRect().width)"
        )
        too_wide = driver.execute_script(
            "return [...document.querySelectorAll('.scroll')]"
            ".flatMap((e, i) => e.scrollWidth > e.clientWidth && !e.querySelector('.small') ? [i] : [])"
        )
        fetched = driver.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    for head in heads:
        assert head in text
    assert pictures
    assert all(0 < w <= seen for w in pictures), pictures
    # On a phone some tables are scrolled sideways, not the method table; on a desk none but the list of runs.
    assert 0 not in too_wide if device == "phone" else not too_wide
    assert not [url for url in fetched if url.startswith("http")]
    return text


def assert_compared(folder: Path, study: str, heads: Sequence[str], picture: str, seed: int = 0) -> None:
    """MLflow's compare view of a study's heads of one seed has all their names, and their accuracies on test."""
    client = MlflowClient(server.tracking_uri(folder))
    experiment = client.get_experiment_by_name(study)
    assert experiment is not None, f"no experiment {study}: mem track sync"
    # A run that a test made since has a setting changed; the study's own heads are older.
    wanted = f"tags.stage = 'train_head' and tags.seed = '{seed}'"
    runs = client.search_runs([experiment.experiment_id], wanted, order_by=["start_time ASC"])
    found = {run.data.tags["variant"]: run for run in reversed(runs)}
    assert set(found) == set(heads)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mem.cli", "track", "ui", "--port", str(port)]
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    ui = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _answers(port, ui)
        ids = quote(json.dumps([run.info.run_id for run in found.values()]))
        among = quote(json.dumps([experiment.experiment_id]))
        with browser(1500, 1400) as driver:
            address = f"http://127.0.0.1:{port}/"
            # The table draws only the columns that are in sight, and the assistant's panel covers a part of it.
            driver.get(address)
            driver.execute_script(
                "for (const [name, value] of [['fab.autoOpenedOnFirstLoad_v1', 'true'], ['panelOpen_v1', 'false']])"
                " localStorage.setItem('mlflow.assistant.' + name, value)"
            )
            driver.get(f"{address}#/compare-runs?runs={ids}&experiments={among}")
            names = [str(run.info.run_name) for run in found.values()]
            accuracies = [row.all for row in rows_on_test(folder, study) if row.seed == seed]
            text = shown(
                driver,
                lambda text: (
                    all(name in text for name in names)
                    and "test/all" in text
                    and all(f"{accuracy:g}" in text.splitlines() for accuracy in accuracies)
                ),
            )
            for section in ("Visualizations", "Parameters"):
                driver.find_element(By.XPATH, f"//*[normalize-space(text())='{section}']").click()
            shown(driver, lambda text: "Parallel Coordinates Plot" not in text and "head.classifier" not in text)
            keep_picture(driver, picture)
        assert f"Comparing {len(heads)} Runs from 1 Experiment" in text
    finally:
        ui.terminate()
        ui.wait(30)


def _answers(port: int, ui: subprocess.Popen, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while True:
        assert ui.poll() is None, "the UI ended"
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10).close()
            return
        except OSError:
            assert time.monotonic() < end, "the UI does not answer"
            time.sleep(1)
