"""Headless Chromium, controlled by Selenium."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

PACKAGES = ("chromium", "chromium-driver")
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip


def _is_installed() -> bool:
    return bool(shutil.which("chromium") and shutil.which("chromedriver"))


def require_browser() -> None:
    """Install the browser if possible. Otherwise, skip the test and report the reason."""
    if _is_installed():
        return
    if os.geteuid() or not shutil.which("apt-get"):
        pytest.skip(
            f"Chromium and chromedriver are missing. Installing {' '.join(PACKAGES)} needs root and Debian or Ubuntu"
        )
    apt = ["apt-get", "-o", "DPkg::Lock::Timeout=900", "-qq"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in ([*apt, "update"], [*apt, "install", "-y", "--no-install-recommends", *PACKAGES]):
        # apt waits for the dpkg lock, but not for the lock on the package lists, which other tests may hold.
        for _ in range(30):
            done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
            if done.returncode == 0:
                break
            time.sleep(5)
        assert done.returncode == 0, done.stderr
    assert _is_installed()


@contextmanager
def browser(width: int = 1280, height: int = 1600) -> Iterator[webdriver.Chrome]:
    """Start a browser with the given page width in pixels."""
    require_browser()
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in OPTIONS:
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        # The minimum width of a window is larger than a phone screen. Emulated device metrics have no minimum width.
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        yield driver
    finally:
        driver.quit()


def text_of(driver: webdriver.Chrome) -> str:
    """Return the visible text of the page."""
    return driver.find_element(By.TAG_NAME, "body").text


def wait_for_text(driver: webdriver.Chrome, ready: Callable[[str], bool], seconds: float = 120) -> str:
    """Wait until `ready` returns true for the text of the page, and return the text."""
    deadline = time.monotonic() + seconds
    while not ready(text := text_of(driver)):
        assert time.monotonic() < deadline, f"after {seconds:.0f} s the page shows only:\n{text}"
        time.sleep(0.5)
    return text


def save_screenshot(driver: webdriver.Chrome, name: str) -> None:
    """Save a screenshot as NAME.png in the folder MEM_SCREENSHOTS if this variable is set, for use in the docs."""
    if folder := os.environ.get("MEM_SCREENSHOTS"):
        driver.save_screenshot(str(Path(folder) / f"{name}.png"))
