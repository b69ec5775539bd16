"""Running the workflow as a user does: the snakemake command, in a folder of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
ENVIRONMENT.pop("MLFLOW_TRACKING_URI", None)


def command(*arguments: str) -> list[str]:
    return ["snakemake", "--snakefile", str(REPOSITORY / "Snakefile"), *arguments]


def snakemake(folder: Path, *arguments: str, check: bool = True, timeout: float = 900) -> subprocess.CompletedProcess:
    """Run snakemake in a folder; its output, both streams, is in `stdout`."""
    done = subprocess.run(
        command(*arguments),
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert not check or done.returncode == 0, done.stdout
    return done


def jobs(folder: Path, *arguments: str) -> Counter[str]:
    """Jobs that a dry run would do, by rule."""
    out = snakemake(folder, "--dry-run", "--cores", "2", *arguments).stdout
    return Counter(re.findall(r"^(?:local)?rule (\w+):", out, re.MULTILINE))


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen]]:
    """Start snakemake and whatever it starts; all of it is gone after the test."""
    running: list[subprocess.Popen] = []

    def begin(folder: Path, *arguments: str) -> subprocess.Popen:
        process = subprocess.Popen(
            command(*arguments),
            cwd=folder,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        try:
            os.killpg(process.pid, 9)
        except ProcessLookupError:
            pass
        process.communicate()
