"""A real browser, without a window: Chromium, steered by Selenium."""

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
QUIET = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip


def _installed() -> bool:
    return bool(shutil.which("chromium") and shutil.which("chromedriver"))


def installed() -> None:
    """Install the browser where that is possible; otherwise skip the test and say why."""
    if _installed():
        return
    if os.geteuid() or not shutil.which("apt-get"):
        pytest.skip(f"no Chromium with chromedriver here, and only root on Debian can install {' '.join(PACKAGES)}")
    apt = ["apt-get", "-o", "DPkg::Lock::Timeout=900", "-qq"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in ([*apt, "update"], [*apt, "install", "-y", "--no-install-recommends", *PACKAGES]):
        # Apt waits for dpkg's lock, but not for that of its lists, which tests beside this one may hold.
        for _ in range(30):
            done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
            if done.returncode == 0:
                break
            time.sleep(5)
        assert done.returncode == 0, done.stderr
    assert _installed()


@contextmanager
def browser(width: int = 1280, height: int = 1600) -> Iterator[webdriver.Chrome]:
    """A browser whose pages are `width` pixels wide."""
    installed()
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in QUIET:
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        # A window has a smallest width; the page's own does not.
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        yield driver
    finally:
        driver.quit()


def text_of(driver: webdriver.Chrome) -> str:
    """What the page says."""
    return driver.find_element(By.TAG_NAME, "body").text


def shown(driver: webdriver.Chrome, ready: Callable[[str], bool], seconds: float = 120) -> str:
    """The page's text, as soon as it is `ready`."""
    end = time.monotonic() + seconds
    while not ready(text := text_of(driver)):
        assert time.monotonic() < end, f"after {seconds:.0f} s the page says only:\n{text}"
        time.sleep(0.5)
    return text


def keep_picture(driver: webdriver.Chrome, name: str) -> None:
    """Save what is seen as NAME.png in the folder that MEM_SCREENSHOTS names, if it does: for docs/images."""
    if folder := os.environ.get("MEM_SCREENSHOTS"):
        driver.save_screenshot(str(Path(folder) / f"{name}.png"))
