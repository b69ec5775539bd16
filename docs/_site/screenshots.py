"""Make the screenshots in docs/images with the browser tests, which also check what the pictures show.

    python docs/_site/screenshots.py                              # those of Digits-LT, from a fresh run of the study
    python docs/_site/screenshots.py mlflow-table                 # only this picture, and others of the same test
    MEM_FASHION=FOLDER python docs/_site/screenshots.py fashion_lt-report-desk

The pictures of Fashion-MNIST-LT need the folder of a finished study (`mem run fashion_lt`). Without MEM_FASHION, the
tests run a small version of it, whose pictures are not for the documentation.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"


@dataclass(frozen=True)
class Source:
    """The test that makes a picture."""

    file: str
    test: str
    variable: str = ""
    """Environment variable that the test needs."""


_DIGITS = "tests/workflow/test_digits_lt.py"
_FASHION = "tests/workflow/test_fashion_lt_browser.py"
PICTURES: Mapping[str, Source] = {
    "digits_lt-report-desk": Source(_DIGITS, "fits_desktop_and_phone"),
    "digits_lt-report-phone": Source(_DIGITS, "fits_desktop_and_phone"),
    "mlflow-table": Source(_DIGITS, "mlflow_shows"),
    "mlflow-parallel": Source(_DIGITS, "mlflow_shows"),
    "fashion_lt-report-desk": Source(_FASHION, "fits_desktop_and_phone", "MEM_FASHION"),
    "fashion_lt-report-phone": Source(_FASHION, "fits_desktop_and_phone", "MEM_FASHION"),
}


def main(names: list[str]) -> int:
    """Run the tests that make the pictures, and return the exit status of pytest.

    Raises:
        SystemExit: There is no such picture, or a variable is missing.
    """
    if unknown := [name for name in names if name not in PICTURES]:
        raise SystemExit(f"There is no picture {unknown[0]}. The pictures are {', '.join(PICTURES)}.")
    chosen = names or [name for name, source in PICTURES.items() if not source.variable]
    sources = {PICTURES[name] for name in chosen}
    for source in sources:
        if source.variable and source.variable not in os.environ:
            raise SystemExit(f"{source.file} needs {source.variable}: the folder of the finished study.")
    files = sorted({source.file for source in sources})
    tests = " or ".join(sorted({source.test for source in sources}))
    command = [sys.executable, "-m", "pytest", "-q", *files, "-k", tests]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "MEM_SCREENSHOTS": str(IMAGES)}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
