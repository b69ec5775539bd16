"""The tiers of tests: a unit test cannot start a process, and a marked test can."""

from __future__ import annotations

import os
import subprocess

import pytest


def test_a_unit_test_cannot_start_a_process():
    with pytest.raises(RuntimeError, match="Mark the test `stage`"):
        subprocess.run(["true"], check=True)
    with pytest.raises(RuntimeError, match="Mark the test `stage`"):
        os.system("true")


@pytest.mark.stage
def test_a_marked_test_can_start_a_process():
    assert subprocess.run(["true"], check=True).returncode == 0
