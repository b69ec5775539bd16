"""The targets of the Makefile that install and remove: the commands that they would run."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.stage


def commands(target: str) -> list[str]:
    """Return the commands of a target, which are not run. The tests themselves can be a command of `make test`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", "-n", target], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_make_setup_always_runs_the_setup():
    """The file that a successful setup left is removed first."""
    assert commands("setup")[:2] == ["rm -f .venv/.ready", "make --no-print-directory .venv/.ready"]


def test_make_clean_keeps_runs_and_results():
    assert commands("clean") == ["rm -rf .venv build"]
