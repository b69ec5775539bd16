"""The image of reconstructions in the report."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from mem.models.sheet_layout import GAP_PIXELS
from mem.report.reconstructions import CELL_PIXELS, SHOWN_IMAGES, reconstruction_images
from mem.runs.dag import study_runs


@pytest.mark.parametrize("side", [112, 224])
def test_a_few_images_are_shown_with_their_first_and_last_reconstruction(tmp_path, monkeypatch, mini, side):
    monkeypatch.chdir(tmp_path)
    run = next(run for run in study_runs(mini) if run.stage == "pretrain")
    (run.folder / "reconstructions").mkdir(parents=True)
    step = side + GAP_PIXELS
    for number, blue in ((10, 50), (20, 100), (30, 200)):
        sheet = np.full((8 * step + GAP_PIXELS, 3 * step + GAP_PIXELS, 3), 255, dtype=np.uint8)
        for row in range(8):
            for column in range(3):
                top, left = GAP_PIXELS + row * step, GAP_PIXELS + column * step
                sheet[top : top + side, left : left + side] = (10 * row, 100 * column, blue)
        Image.fromarray(sheet).save(run.folder / "reconstructions" / f"step-{number:07d}.png")
    (image,) = reconstruction_images(study_runs(mini))
    assert "reconstructed at step 10 and reconstructed at step 30" in image.caption
    pixels = np.asarray(Image.open(io.BytesIO(image.png)))
    step = CELL_PIXELS + GAP_PIXELS
    assert pixels.shape == (4 * step + GAP_PIXELS, SHOWN_IMAGES * step + GAP_PIXELS, 3)
    centres = pixels[GAP_PIXELS + CELL_PIXELS // 2 :: step, GAP_PIXELS + CELL_PIXELS // 2 :: step]
    shown = [0, 10, 30, 40, 60, 70]  # evenly spaced rows of the sheet
    assert centres[..., 0].tolist() == [shown] * 4
    assert centres[:, 0, 1].tolist() == [0, 100, 200, 200]
    assert centres[:, 0, 2].tolist() == [50, 50, 50, 200]


def test_a_study_without_reconstructions_has_no_image(tmp_path, monkeypatch, mini):
    monkeypatch.chdir(tmp_path)
    assert reconstruction_images(study_runs(mini)) == []
