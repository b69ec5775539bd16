"""`mem data stats`: statistics of a sample of images, damaged images, and the suggested settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from mem.cli.main import main
from mem.config import Initial
from mem.config.load import load_study
from mem.data.check.statistics import describe_study, statistics_of
from mem.data.datasets.base import ImageSplit, split_of_files
from tests.conftest import REPOSITORY

RANDOM = np.random.default_rng(0)


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    values = RANDOM.integers(0, 256, (height, width, channels), dtype=np.uint8)
    return values if channels == 3 else np.repeat(values, 3, axis=2)


def split_of(images: list[np.ndarray]) -> ImageSplit:
    labels = np.zeros(len(images), dtype=np.int64)
    return ImageSplit(labels, tuple(map(str, range(len(images)))), lambda i: images[i])


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with pictures of two classes in several formats, and a study of them."""
    monkeypatch.chdir(tmp_path)
    for name, kind in (("a", "png"), ("b", "jpg")):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(6):
            image = Image.fromarray(noise(20, 30) if i % 2 else noise(24, 24, 1))
            image.save(tmp_path / "pictures" / name / f"{i}.{kind}")
    values = yaml.safe_load((REPOSITORY / "tests/mini.yaml").read_text())
    values["dataset"] = {
        **{"source": "folder", "name": "pictures", "root": "pictures", "test": {"per_class": 1, "seed": 0}},
        **{"storage": "raw", "pixel_mean": [0.5] * 3, "pixel_std": [0.5] * 3, "holdout": {"share": 0.2, "seed": 0}},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    return tmp_path


def test_mean_and_std_are_those_of_all_pixels_of_images_of_equal_size():
    images = [noise(10, 12) // (i + 1) for i in range(8)]
    found = statistics_of(split_of(images), 100, None)
    pixels = np.stack(images).reshape(-1, 3) / 255
    np.testing.assert_allclose(found.mean, pixels.mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(found.std, pixels.std(axis=0), rtol=1e-10)
    assert not found.damaged and not any(image.is_grey for image in found.images)


def test_large_and_small_images_have_the_same_weight():
    dark, bright = np.zeros((100, 100, 3), dtype=np.uint8), np.full((10, 10, 3), 255, dtype=np.uint8)
    np.testing.assert_allclose(statistics_of(split_of([dark, bright]), 10, None).mean, 0.5)


def test_the_sample_is_evenly_spaced():
    images = [np.full((2, 2, 3), i, dtype=np.uint8) for i in range(101)]
    found = statistics_of(split_of(images), 5, None)
    assert [round(image.means[0] * 255) for image in found.images] == [0, 25, 50, 75, 100]


def test_sizes_are_measured_after_shrinking():
    (facts,) = statistics_of(split_of([noise(40, 80)]), 1, 10).images
    assert (facts.height, facts.width, facts.raw_bytes) == (40, 80, 10 * 20 * 3)
    assert 0 < facts.jpeg_bytes < 2000


def test_damaged_images_are_skipped_and_counted(tmp_path):
    names = ["good.png", "damaged.png", "missing.png", "empty.png"]
    Image.fromarray(noise(5, 5)).save(tmp_path / "good.png")
    (tmp_path / "damaged.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    (tmp_path / "empty.png").touch()
    found = statistics_of(split_of_files(str(tmp_path), names, names, np.zeros(4, dtype=np.int64)), 10, None)
    assert len(found.images) == 1
    assert [text.split()[0] for text in found.damaged] == names[1:]
    assert "No such file" in found.damaged[1]


def test_the_command_describes_a_study_and_suggests_settings(folder, capsys):
    (folder / "pictures/a/0.png").write_text("<html>")
    assert main(["data", "stats", "study.yaml", "--sample", "500"]) == 0
    out = capsys.readouterr().out
    number = int(out.split("all ")[1].split()[0])
    assert f"pictures: all {number} training images" in out
    assert "PNG" in out and "JPEG" in out
    assert "% grey" in out
    suggested = yaml.safe_load(out.split("Suggested settings:\n")[1])
    assert suggested["dataset"]["storage"] == "raw"
    assert suggested["dataset"]["short_side"] == round(8 * 8 / 7)
    assert suggested["backbone"]["image_size"] == 8
    mean = suggested["dataset"]["pixel_mean"]
    assert all(0.4 < value < 0.6 for value in mean)


def test_weights_keep_their_normalisation_and_small_images_get_a_small_input(folder, capsys):
    values = yaml.safe_load((folder / "study.yaml").read_text())
    values["backbone"]["image_size"] = 64
    (folder / "study.yaml").write_text(yaml.safe_dump(values))
    study = load_study(["study.yaml"])
    assert "image_size: 24" in describe_study(study, None, 10), "the next multiple of the patch size"
    started = study.model_copy(update={"initial": Initial(weights="mae_pretrain_vit_base")})
    text = describe_study(started, None, 10)
    assert "pixel_mean: [0.5, 0.5, 0.5]" in text
    assert "image_size: 64" in text and "are enlarged" in text


def test_images_that_are_all_damaged_are_an_error(folder, capsys):
    for path in (folder / "pictures").rglob("*.*"):
        path.write_text("no image")
    assert main(["data", "stats", "study.yaml"]) == 2
    err = capsys.readouterr().err
    assert "none of" in err and "sampled images can be read" in err


@pytest.mark.parametrize("number", ["0", "-1", "many", "1.5", "²"])
def test_an_invalid_number_of_images_is_refused(folder, capsys, number):
    with pytest.raises(SystemExit) as ended:
        main(["data", "stats", "study.yaml", "--sample", number])
    assert ended.value.code == 2
    assert "expected" in capsys.readouterr().err
