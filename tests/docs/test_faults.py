"""The list of faults names only tests that exist."""

from __future__ import annotations

import re

from tests.conftest import REPOSITORY

PAGE = REPOSITORY / "docs" / "reference" / "faults.md"
FOLDERS = ("tests", "cluster/snakemake-executor-plugin-submitit/tests")


def test_every_fault_names_a_test_that_exists_or_the_date_of_a_manual_test():
    files = [path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("test_*.py")]
    defined = {name for path in files for name in re.findall(r"^\s*def (test_\w+)", path.read_text(), re.MULTILINE)}
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("|") and "---" not in line]
    faults = [row for row in rows if not row.startswith("| Fault")]
    assert len(faults) >= 30
    for row in faults:
        evidence = row.strip("|").split("|")[-1]
        named = re.findall(r"`(test_\w+)`", evidence)
        assert named or re.search(r"by hand, 20\d\d-\d\d-\d\d", evidence), row
        assert set(named) <= defined, row
