"""Fashion-MNIST-LT's report and MLflow's compare view in a browser.

On a small study of the data's first images, trained for an epoch or two; on a finished one with
`MEM_FASHION=FOLDER pytest tests/workflow/test_fashion_lt_browser.py`, FOLDER being where `snakemake --config
study=fashion_lt` ran, and `MEM_SCREENSHOTS=DIR` to keep the pictures.
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
from tests.workflow.pages import WIDTHS, assert_compared, assert_report_reads, rows_on_test

pytestmark = pytest.mark.workflow
STUDY = REPOSITORY / "config" / "fashion_lt.yaml"
HEADS = tuple(load_study([STUDY]).heads)
IMAGES = {"train": 6000, "t10k": 400}
SMALL = {
    "cut": {"counts": [300, 200, 120, 110, 60, 40, 25, 15, 10, 6], "seed": 0, "val_per_class": 10},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the study's finished runs, its report, and MLflow's database."""
    if given := os.environ.get("MEM_FASHION"):
        return Path(given).resolve()
    if not all((DEBIAN / f"{name}.gz").is_file() for name in FILES):
        pytest.skip("Debian's package dataset-fashion-mnist is not installed, and no MEM_FASHION=FOLDER is given")
    made = tmp_path_factory.mktemp("fashion_lt")
    before = Path.cwd()
    os.chdir(made)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("MLFLOW_TRACKING_URI", raising=False)
            patch.setattr("mem.data.datasets.fashion_mnist._EXPECTED", IMAGES)
            first_images(made / "images")
            small_study(made / "images")
        sync(made)
    finally:
        os.chdir(before)
    return made


def first_images(folder: Path) -> None:
    """The first images of the data set, in files of its own format."""
    folder.mkdir()
    for name in FILES:
        array = read_idx(DEBIAN / f"{name}.gz")[: IMAGES[name.split("-")[0]]]
        header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        (folder / f"{name}.gz").write_bytes(gzip.compress(header + np.ascontiguousarray(array).tobytes(), 1))


def small_study(images: Path) -> None:
    """Every stage, here."""
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
def test_the_report_reads_in_a_browser_on_a_desk_and_on_a_phone(folder, device, width):
    text = assert_report_reads(folder, "fashion_lt", device, width, HEADS)
    for said in ("Ankle boot", "Figure 1: Where errors land", "73.6", "Original, masked and reconstructed"):
        assert said in text
    for variant in HEADS:
        mine = [row.all for row in rows_on_test(folder, "fashion_lt") if row.variant == variant]
        assert f"{sum(mine) / len(mine):.2f}" in text


def test_mlflow_shows_the_methods_side_by_side_in_a_browser(folder):
    assert_compared(folder, "fashion_lt", HEADS, "fashion_lt-mlflow-compare")
