"""Make the screenshots in docs/images with the browser tests, which also check what the pictures show.

Usage: python docs/_site/screenshots.py [PICTURE ...]

Digits-LT runs first, which takes some minutes. Without PICTURE, all pictures are made, otherwise those of the tests
that make these pictures.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
TESTS = "tests/workflow/test_digits_lt.py"
_REPORT = "test_the_report_fits_desktop_and_phone_screens"
_MLFLOW = "test_mlflow_shows_a_table_of_all_methods"
PICTURES: Mapping[str, str] = {
    "digits_lt-report-desk": _REPORT,
    "digits_lt-report-phone": _REPORT,
    "mlflow-table": _MLFLOW,
    "mlflow-parallel": _MLFLOW,
}
"""Beginning of the name of the test that makes each picture."""


def main(names: list[str]) -> int:
    """Run the tests that make the pictures, and return the exit status of pytest.

    Raises:
        SystemExit: There is no such picture.
    """
    if unknown := [name for name in names if name not in PICTURES]:
        raise SystemExit(f"There is no picture {unknown[0]}. The pictures are {', '.join(PICTURES)}.")
    tests = " or ".join(sorted({PICTURES[name] for name in names or PICTURES}))
    command = [sys.executable, "-m", "pytest", "-q", TESTS, "-k", tests]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "MEM_SCREENSHOTS": str(IMAGES)}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
