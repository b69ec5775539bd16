"""Run the workflow as a user does, with the snakemake command in a separate folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mem.tracking.log import read_curve
from tests.conftest import REPOSITORY
from tests.key_biases import without_key_biases

ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
ENVIRONMENT.pop("MLFLOW_TRACKING_URI", None)


def command(*arguments: str) -> list[str]:
    return ["snakemake", "--snakefile", str(REPOSITORY / "Snakefile"), *arguments]


def snakemake(
    folder: Path, *arguments: str, check: bool = True, timeout: float = 900, **environment: str
) -> subprocess.CompletedProcess:
    """Run snakemake in a folder. The result's `stdout` contains both output streams."""
    done = subprocess.run(
        command(*arguments),
        cwd=folder,
        env=ENVIRONMENT | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert not check or done.returncode == 0, done.stdout
    return done


def jobs(folder: Path, *arguments: str) -> Counter[str]:
    """Return the number of jobs per rule in a dry run."""
    output = snakemake(folder, "--dry-run", "--cores", "2", *arguments).stdout
    return Counter(re.findall(r"^(?:local)?rule (\w+):", output, re.MULTILINE))


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen]]:
    """Function that starts snakemake in the background. After the test, the process and its children are killed."""
    running: list[subprocess.Popen] = []

    def start_snakemake(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen:
        process = subprocess.Popen(
            command(*arguments),
            cwd=folder,
            env=ENVIRONMENT | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        running.append(process)
        return process

    yield start_snakemake
    for process in running:
        try:
            os.killpg(process.pid, 9)
        except ProcessLookupError:
            pass
        process.communicate()


def assert_same_training(run: Path, one: Path, other: Path) -> None:
    """Check that a pretraining run in two folders has equal weights and loss curves, except for rounding."""
    weights = [without_key_biases(load_file(folder / run / "autoencoder.safetensors")) for folder in (one, other)]
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-3, atol=1e-4)
    curves = [dict(read_curve(folder / run / "log.jsonl", "train/loss")) for folder in (one, other)]
    assert len(curves[0]) >= 40
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)
