"""`mem data show`: histogram and contact sheet for few classes and for thousands of classes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import matplotlib as mpl
import matplotlib.image
import numpy as np
import pytest
from matplotlib import cbook
from matplotlib.backends.backend_agg import FigureCanvasAgg

from mem.cli.main import main
from mem.config import Shots
from mem.config.load import load_study
from mem.data.datasets.base import ImageSet, empty_split, split_of_files
from mem.data.show import (
    COLUMNS,
    ROWS_PER_GROUP,
    TILE,
    contact_sheet,
    histogram,
    select_rows,
    show,
    thumbnail,
    write_figures,
)
from mem.errors import UserError
from mem.longtail import SHOT_NAMES, class_counts, shot_groups
from mem.runs.dag import study_runs
from mem.runs.folder import RunFolder
from mem.style import MATPLOTLIB_SETTINGS
from mem.tracking.log import read_events
from tests.beton_files import write_beton
from tests.conftest import REPOSITORY


def long_tail(classes: int, largest: int, smallest: int) -> np.ndarray:
    return np.geomspace(largest, smallest, classes).astype(np.int64)


def rows_of(counts: np.ndarray, shown: list[int] | None = None):
    labels = np.repeat(np.arange(len(counts)), counts)
    np.random.default_rng(0).shuffle(labels)

    def tile(i: int) -> np.ndarray:
        if shown is not None:
            shown.append(i)
        return np.full((TILE, TILE, 3), labels[i] % 256, dtype=np.uint8)

    groups = shot_groups(counts, Shots())
    return labels, select_rows(labels, counts, groups, [f"class {k}" for k in range(len(counts))], tile)


def test_a_sheet_shows_the_most_and_least_frequent_class_of_each_group_with_their_own_images():
    counts = long_tail(1000, 1280, 5)
    shown: list[int] = []
    labels, rows = rows_of(counts, shown)
    assert [row.shot for row in rows] == [shot for shot in SHOT_NAMES for _ in range(ROWS_PER_GROUP)]
    assert (rows[0].name, rows[0].count, rows[-1].name, rows[-1].count) == ("class 0", 1280, "class 999", 5)
    assert len(rows[0].tiles) == COLUMNS
    assert len(rows[-1].tiles) == 5
    of_row = iter(shown)
    for row in rows:
        assert {f"class {labels[next(of_row)]}" for _ in row.tiles} == {row.name}


def test_the_selection_is_always_the_same():
    first, second = [], []
    rows_of(long_tail(50, 300, 2), first)
    rows_of(long_tail(50, 300, 2), second)
    assert first == second


def test_a_group_without_classes_has_no_rows():
    _, rows = rows_of(np.array([500, 400, 300]))
    assert [row.name for row in rows] == ["class 0", "class 1", "class 2"]


@pytest.mark.parametrize("classes", [3, 10, 100, 1000, 8142])
def test_the_histogram_has_every_class_and_its_legend_every_group(classes):
    counts = long_tail(classes, 1280, 2)
    groups = shot_groups(counts, Shots())
    with mpl.rc_context(MATPLOTLIB_SETTINGS):
        figure = histogram(counts, groups, [f"class {k}" for k in range(classes)])
        figure.canvas.draw()
    bars = sum(len(patch.get_data().values) if hasattr(patch, "get_data") else 1 for patch in figure.axes[0].patches)
    assert bars == classes
    legend = figure.legends[0]
    for g, shot in enumerate(SHOT_NAMES):
        chosen = counts[groups == g]
        texts = [text.get_text() for text in legend.get_texts()]
        assert f"{shot}: {len(chosen):,} classes,\n{chosen.sum():,} images" in texts or not len(chosen)
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width


def test_class_names_are_drawn_literally_and_may_have_any_bytes(tmp_path):
    labels, names = np.repeat(np.arange(2), 3), ["50 $ a $", os.fsdecode(b"caf\xe9")]

    def tile(i: int) -> np.ndarray:
        return np.zeros((TILE, TILE, 3), dtype=np.uint8)

    counts = class_counts(labels, 2)
    groups = shot_groups(counts, Shots())
    rows = select_rows(labels, counts, groups, names, tile)
    for texts in (histogram(counts, groups, names).axes[0].get_xticklabels(), contact_sheet(rows).axes[0].texts[::2]):
        formulas = [cbook.is_math_text(text.get_text()) for text in texts]
        assert formulas == [False, False]
        assert [text.get_text().replace(r"\$", "$") for text in texts] == ["50 $ a $", "caf\\xe9"]


def test_long_class_names_fit_into_the_contact_sheet():
    names = ["U+004E LATIN CAPITAL LETTER N", "U+1F54 GREEK SMALL LETTER UPSILON WITH PSILI AND OXIA", "N"]
    labels = np.arange(3)
    counts = class_counts(labels, 3)
    groups = shot_groups(counts, Shots())
    figure = contact_sheet(select_rows(labels, counts, groups, names, lambda _: np.zeros((TILE, TILE, 3), np.uint8)))
    FigureCanvasAgg(figure).draw()
    texts = figure.axes[0].texts[::2]
    assert all(text.get_window_extent().x0 >= 0 for text in texts)
    assert {text.get_text()[-1] for text in texts} == {"N", "A"} and "N" in {text.get_text() for text in texts}


def test_a_thumbnail_is_the_central_square():
    image = np.zeros((200, 400, 3), dtype=np.uint8)
    image[:, 100:300] = 255
    assert (thumbnail(image) == 255).all()


def test_the_command_plots_a_study(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "show", str(REPOSITORY / "tests" / "mini.yaml"), "--order", "3"]) == 0
    printed = capsys.readouterr().out.split()
    assert printed == ["results/mini/data/histogram-order3.png", "results/mini/data/contact_sheet-order3.png"]
    for path in printed:
        assert matplotlib.image.imread(tmp_path / path).shape[0] > 400


def test_a_converted_data_set_is_plotted_from_its_beton_file(tmp_path):
    labels = np.repeat(np.arange(3), (30, 8, 3))
    (tmp_path / "dataset.json").write_text(json.dumps({"classes": ["a", "b", "c"]}))
    images = [np.full((20, 30, 3), 40 * label, dtype=np.uint8) for label in labels]
    write_beton(tmp_path / "train.beton", images, labels)
    paths = write_figures(tmp_path)
    assert paths == [tmp_path / "histogram.png", tmp_path / "contact_sheet.png"]
    sheet = (255 * matplotlib.image.imread(paths[1])[:, :, :3]).round().astype(int)
    for k in range(3):
        assert (sheet == 40 * k).all(axis=2).sum() > 3 * 0.9 * TILE**2


def test_a_missing_image_is_reported(tmp_path, monkeypatch, mini):
    split = split_of_files(str(tmp_path), ["a.jpg"], ["a.jpg"], np.zeros(1, dtype=np.int64))
    images = ImageSet(("x",), split, empty_split(), empty_split())
    monkeypatch.setattr("mem.data.show.read_dataset", lambda settings, order: images)
    with pytest.raises(UserError, match=r"a\.jpg: No such file or directory. Run `mem data check`"):
        show(mini, None)


@pytest.mark.stage
def test_a_conversion_sends_both_figures_to_mlflow(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mini = str(REPOSITORY / "tests" / "mini.yaml")
    assert main(["runs", mini, "--write"]) == 0
    run = next(run for run in study_runs(load_study([mini])) if run.stage == "convert")
    assert main(["convert", "--config", str(RunFolder(run.folder).config)]) == 0
    sent = [event for event in read_events(RunFolder(run.folder).log) if event["event"] == "artifact"]
    assert {Path(event["path"]).name for event in sent} == {"histogram.png", "contact_sheet.png"}
    assert all((tmp_path / event["path"]).is_file() and event["to"] == "data" for event in sent)
