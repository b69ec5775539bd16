"""The report of Fashion-MNIST-LT and MLflow's compare view in a browser.

By default, the tests run a small study on the first images of the dataset. To check a finished study, set
`MEM_FASHION=FOLDER` to the folder in which `snakemake --config study=fashion_lt` ran. `MEM_SCREENSHOTS=DIR` saves the
screenshots.
"""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from mem.cli.main import main
from mem.config.load import load_study
from mem.data.datasets.fashion_mnist import DEBIAN, FILES, read_idx
from mem.runs.dag import study_runs
from mem.runs.run_config import write_configs
from mem.tracking.commands import sync
from tests.conftest import REPOSITORY
from tests.workflow.pages import WIDTHS, check_mlflow_views, check_report, rows_on_test

pytestmark = pytest.mark.workflow
STUDY = REPOSITORY / "config" / "fashion_lt.yaml"
HEADS = tuple(load_study([STUDY]).heads)
IMAGES = {"train": 6000, "t10k": 400}
SMALL = {
    "cut": {"counts": [300, 200, 120, 110, 60, 40, 25, 15, 10, 6], "seed": 0, "val_per_class": 10},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the finished study, its report and the MLflow database."""
    if finished := os.environ.get("MEM_FASHION"):
        return Path(finished).resolve()
    if not all((DEBIAN / f"{name}.gz").is_file() for name in FILES):
        pytest.skip("install Debian's package dataset-fashion-mnist, or set MEM_FASHION")
    folder = tmp_path_factory.mktemp("fashion_lt")
    before = Path.cwd()
    os.chdir(folder)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("MLFLOW_TRACKING_URI", raising=False)
            patch.setattr("mem.data.datasets.fashion_mnist._EXPECTED", IMAGES)
            write_first_images(folder / "images")
            run_small_study(folder / "images")
        sync(folder)
    finally:
        os.chdir(before)
    return folder


def write_first_images(folder: Path) -> None:
    """Write the first images of the dataset in the original file format."""
    folder.mkdir()
    for name in FILES:
        array = read_idx(DEBIAN / f"{name}.gz")[: IMAGES[name.split("-")[0]]]
        header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        (folder / f"{name}.gz").write_bytes(gzip.compress(header + np.ascontiguousarray(array).tobytes(), 1))


def run_small_study(images: Path) -> None:
    """Run every stage in this process."""
    changes = {
        "dataset": {**SMALL, "root": str(images)},
        "seeds": [0],
        "pretrain": {"epochs": 2, "warmup_epochs": 1, "reconstruct_every_epochs": 1},
        "finetune": {"epochs": 4, "warmup_epochs": 1, "validate_every_epochs": 2},
    }
    study = load_study([STUDY], changes)
    runs = study_runs(study)
    write_configs(runs, study)
    for run in runs:
        assert main([run.stage, "--config", str(run.folder / "config.yaml")]) == 0, run.folder


@pytest.mark.parametrize(("device", "width"), WIDTHS)
def test_the_report_fits_desktop_and_phone_screens_in_a_browser(folder, device, width):
    text = check_report(folder, "fashion_lt", device, width, HEADS)
    for expected in (
        "Ankle boot",
        "Figure 1: Distribution of errors",
        "73.6",
        "original, masked, reconstructed at step",
    ):
        assert expected in text
    for variant in HEADS:
        accuracies = [row.all for row in rows_on_test(folder, "fashion_lt") if row.variant == variant]
        assert f"{sum(accuracies) / len(accuracies):.2f}" in text


def test_the_views_in_mlflow_show_all_methods_in_a_browser(folder):
    check_mlflow_views(folder, "fashion_lt", HEADS, "fashion_lt-mlflow")
