"""Sections about single classes and images, on synthetic predictions."""

from __future__ import annotations

import base64
import io
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mem.config import Study
from mem.data.show import evenly_spaced
from mem.metrics.predictions import PREDICTIONS_FILE, read_predictions
from mem.report import class_figures, confused_classes, figures
from mem.report.chosen_methods import chosen_methods
from mem.report.class_accuracy import (
    MAX_CLASSES,
    ClassScores,
    all_classes,
    class_scores,
    class_table,
    smooth_curve,
    worst_classes,
)
from mem.report.class_sections import NO_IMAGES, class_sections
from mem.report.collect import StudyResults
from mem.report.confused_classes import confusions
from mem.report.few_shot_gallery import PICTURES, few_shot_pictures, outcome_table
from mem.report.group_errors import group_error_table
from mem.report.page import CaptionedFigure, CaptionedTable, Section
from mem.report.pictures import CaptionedPictures
from mem.report.plot_elements import RenderedFigure
from mem.report.run_predictions import run_predictions
from mem.report.study_images import SIDE, StudyImages, data_uri
from mem.report.transductive import MARK
from tests.beton_files import write_beton
from tests.report.class_results import COUNTS, NAMES, PER_CLASS, SHOTS, manifest, study_results
from tests.report.synthetic import rows_of_two_seeds

ERRORS = {"ce": 0.5, "crt": 0.3, "mem": 0.4}
REPEATS = ((0, 0), (0, 1), (3, 0))


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> StudyResults:
    """Results of three methods in three runs. cRT makes the fewest errors."""
    return study_results(tmp_path_factory.mktemp("evaluations"), ERRORS, REPEATS)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> StudyImages:
    """Converted images of both class orders. Pixel values are the position of the image in its split."""
    folder = tmp_path_factory.mktemp("images")
    for split in ("train", "test"):
        labels = np.tile(np.arange(len(COUNTS)), PER_CLASS)
        write_beton(folder / f"{split}.beton", [np.full((4, 6, 3), i, np.uint8) for i in range(len(labels))], labels)
    return StudyImages({0: folder, 3: folder})


def scores_of(results: StudyResults, mini: Study) -> list[ClassScores]:
    return class_scores(mini, manifest(), results)


def predictions(results: StudyResults, variant: str, order: int, seed: int):
    return read_predictions(results.evaluations[variant, order, seed] / PREDICTIONS_FILE)[1]["test"]


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB"))


# --- the methods that are shown ------------------------------------------------------------------------


def test_the_focus_is_chosen_on_val_and_compared_with_the_reference_or_ce(results):
    chosen = chosen_methods(results.rows)
    assert (chosen.focus, chosen.baseline, chosen.shown) == ("crt", "ce", ("ce", "crt", "mem"))
    better = [
        replace(row, balanced=99.0) if row.variant == "mem" and row.split == "val" else row for row in results.rows
    ]
    assert (chosen_methods(better).focus, chosen_methods(better).baseline) == ("mem", "crt")


def test_without_a_val_split_no_choice_depends_on_test(results):
    on_test = [row for row in results.rows if row.split == "test"]
    for rows in (on_test, [replace(row, balanced=100 - row.balanced) for row in on_test]):
        chosen = chosen_methods(rows)
        assert (chosen.focus, chosen.baseline) == ("mem", "crt")
        assert "no val split" in chosen.reason
    alone = chosen_methods([row for row in on_test if row.variant == "ce"])
    assert (alone.focus, alone.baseline, alone.shown) == ("ce", None, ("ce",))


# --- accuracy by class ---------------------------------------------------------------------------------


def test_accuracies_of_classes_are_means_over_the_seeds_of_a_class_order(results, mini):
    first, second = scores_of(results, mini)
    assert (first.order, second.order) == (0, 3)
    for k in range(len(COUNTS)):
        runs = [predictions(results, "mem", 0, seed) for seed in (0, 1)]
        expected = np.mean([100 * run.correct[run.labels == k].mean() for run in runs])
        assert first.accuracy["mem"][k] == pytest.approx(expected)
    assert first.test_images.tolist() == [PER_CLASS] * len(COUNTS)
    assert first.shots.tolist() == list(SHOTS)


def test_the_table_lists_the_lowest_accuracy_of_the_focus_first_and_the_file_lists_everything(results, mini):
    scores = scores_of(results, mini)
    lines = class_table(scores, chosen_methods(results.rows))
    header = ["class", "order", "shot", "train", "n", "ce", "crt", "mem", "minus ce"]
    assert lines[0] == header
    assert len(lines) == 1 + 2 * len(COUNTS)
    focus = [float(line[6]) for line in lines[1:]]
    assert focus == sorted(focus)
    for line in lines[1:]:
        assert float(line[8].replace("\N{MINUS SIGN}", "-")) == pytest.approx(float(line[6]) - float(line[5]), abs=0.11)
        assert line[2] == ("many", "medium", "few")[SHOTS[NAMES.index(line[0])]]
    listed = all_classes(scores)
    assert listed[0] == ["order", "class", "name", "shot", "training_images", "test_images", "ce", "crt", "mem"]
    assert len(listed) == 1 + 2 * len(COUNTS)
    assert listed[1][:6] == ["0", "0", "ant", "many", "200", "10"]


def test_the_worst_three_classes_are_named_with_their_numbers_of_images(results, mini):
    scores = scores_of(results, mini)
    text = worst_classes(scores, chosen_methods(results.rows))
    means = np.mean([of_order.accuracy["crt"] for of_order in scores], axis=0)
    worst = np.argsort(means, kind="stable")[:3]
    named = ", ".join(f"{NAMES[k]} ({means[k]:.1f} %, n = 10 test images, {COUNTS[k]} training images)" for k in worst)
    assert text == f"The worst three classes of crt (the best method on val) on test are {named}."


def test_classes_without_test_images_in_an_order_are_not_ranked(results, mini):
    first, *others = scores_of(results, mini)
    missing = replace(first, accuracy={name: np.full_like(a, np.nan) for name, a in first.accuracy.items()})
    text = worst_classes([missing, *others], chosen_methods(results.rows))
    assert text == "No class has test images in all class orders."


def test_the_smooth_line_is_a_gaussian_mean_over_log_counts_without_classes_that_have_no_test_images():
    images = np.array([1, 3, 10, 50, 200, 0])
    accuracies = np.array([10.0, 40.0, np.nan, 70.0, 90.0, 55.0])
    x, y = smooth_curve(images, accuracies)
    width = 0.15 * np.log10(200)
    used = [(np.log10(n), a) for n, a in zip(images, accuracies, strict=True) if n and not np.isnan(a)]
    for at, value in zip(np.log10(x), y, strict=True):
        weights = [np.exp(-((at - logs) ** 2) / (2 * width**2)) for logs, _ in used]
        assert value == pytest.approx(sum(w * a for w, (_, a) in zip(weights, used, strict=True)) / sum(weights))
    assert (x[0], x[-1]) == (pytest.approx(1), pytest.approx(200))
    np.testing.assert_allclose(smooth_curve(np.array([5, 50]), np.array([30.0, 30.0]))[1], 30)
    assert smooth_curve(np.array([5]), np.array([np.nan]))[0].size == 0


def test_a_study_with_8142_classes_stays_small():
    random = np.random.default_rng(0)
    counts = np.sort(random.integers(2, 1000, 8142))[::-1].copy()
    accuracy = {name: random.choice([0.0, 100 / 3, 200 / 3, 100.0], 8142) for name in ("ce", "crt")}
    shots = np.select([counts > 100, counts < 20], [0, 2], 1).astype(np.int64)
    scores = [ClassScores(0, [f"class {k}" for k in range(8142)], counts, shots, np.full(8142, 3), accuracy)]
    assert len(class_figures.accuracy_by_class(scores, ["crt"]).svg) < 150_000
    chosen = chosen_methods(rows_of_two_seeds("s", "d", "b", **dict.fromkeys(accuracy, 50.0)))
    assert len(class_table(scores, chosen)) == 1 + MAX_CLASSES
    assert len(all_classes(scores)) == 1 + 8142


# --- confused classes ----------------------------------------------------------------------------------


def test_confused_pairs_are_counted_over_all_runs(results, mini, images):
    chosen = chosen_methods(results.rows)
    runs = list(run_predictions(results, chosen))
    assert [(run.order, run.seed) for run in runs] == list(REPEATS)
    expected: Counter = Counter()
    for repeat in REPEATS:
        found = predictions(results, "crt", *repeat)
        expected.update(
            (k, p) for k, p in zip(found.labels.tolist(), found.predictions.tolist(), strict=True) if k != p
        )
    counted = confusions(runs)
    assert counted.focus == expected
    assert set(counted.images.values()) == {PER_CLASS * len(REPEATS)}
    table = confused_classes.pair_table(counted, scores_of(results, mini), chosen, len(runs))
    first = table.lines[1]
    (label, predicted), number = max(expected.items(), key=lambda item: (item[1], -item[0][0], -item[0][1]))
    assert first[:5] == [NAMES[label], NAMES[predicted], str(number), "30", f"{100 * number / 30:.1f} %"]
    assert first[6] == f"{COUNTS[label]} → {COUNTS[predicted]}"
    errors = [int(line[2]) for line in table.lines[1:]]
    assert errors == sorted(errors, reverse=True)


def test_pictures_of_a_pair_are_the_first_confused_test_images_and_training_images(results, mini, images):
    runs = list(run_predictions(results, chosen_methods(results.rows)))
    counted = confusions(runs)
    groups = confused_classes.pair_pictures(counted, scores_of(results, mini), images).groups
    label, predicted = counted.ranked(1)[0]
    confused = sorted(
        {
            i
            for seed in (0, 1)
            for i in np.flatnonzero(
                (predictions(results, "crt", 0, seed).labels == label)
                & (predictions(results, "crt", 0, seed).predictions == predicted)
            ).tolist()
        }
    )[: confused_classes.ERRORS]
    of_train = [predicted, predicted + len(COUNTS)]
    shown = [int(pixels(picture.data_uri)[0, 0, 0]) for picture in groups[0].pictures if picture.data_uri]
    assert shown == [*confused, *of_train]
    assert groups[0].pictures[0].name == f"{NAMES[label]}/{confused[0]}.png"
    assert groups[0].title == f"{NAMES[label]} → {NAMES[predicted]}"
    assert groups[0].text.startswith(f"{counted.focus[label, predicted]} of n = 30; ")
    assert images.unreadable == 0


def test_training_images_of_a_missing_file_are_counted_as_missing(results, mini, images, tmp_path):
    (tmp_path / "test.beton").write_bytes((images.folders[0] / "test.beton").read_bytes())
    without_train = StudyImages({0: tmp_path, 3: tmp_path})
    counted = confusions(list(run_predictions(results, chosen_methods(results.rows))))
    groups = confused_classes.pair_pictures(counted, scores_of(results, mini), without_train).groups
    missing = [picture for group in groups for picture in group.pictures if picture.data_uri is None]
    assert len(missing) == without_train.unreadable == len(groups) * confused_classes.EXAMPLES


# --- few-shot examples ---------------------------------------------------------------------------------


def test_outcomes_of_two_methods_are_counted_by_shot_group(results):
    chosen = chosen_methods(results.rows)
    lines = outcome_table(list(run_predictions(results, chosen)), chosen).lines
    assert lines[0] == ["shot group", "both right", "only crt", "only ce", "both wrong", "n"]
    for group, line in enumerate(lines[1:4]):
        counts = np.zeros(4, dtype=int)
        for repeat in REPEATS:
            focus, baseline = (predictions(results, name, *repeat) for name in ("crt", "ce"))
            of_group = np.asarray(SHOTS)[focus.labels] == group
            for position, (right, other) in enumerate(((True, True), (True, False), (False, True), (False, False))):
                counts[position] += (of_group & (focus.correct == right) & (baseline.correct == other)).sum()
        assert [int(cell.split(" ")[0]) for cell in line[1:]] == [*counts.tolist(), 60]
    assert lines[4][0] == "all"
    assert lines[4][-1] == "180"


def test_few_shot_pictures_are_evenly_spaced_and_their_captions_name_the_wrong_predictions(results, images):
    chosen = chosen_methods(results.rows)
    runs = list(run_predictions(results, chosen))
    groups = few_shot_pictures(runs, chosen, NAMES, images).groups
    focus, baseline = (predictions(results, name, 0, 0) for name in ("crt", "ce"))
    few = np.asarray(SHOTS)[focus.labels] == 2
    members = np.flatnonzero(few & focus.correct & ~baseline.correct)
    members = sorted(members.tolist(), key=lambda i: (focus.labels[i], i))
    assert groups[0].text == f"{len(members)} of n = 20 few-shot test images"
    shown = [int(pixels(picture.data_uri)[0, 0, 0]) for picture in groups[0].pictures if picture.data_uri]
    assert shown == evenly_spaced(members, PICTURES)
    first = members[0]
    wrong = f"ce: {NAMES[baseline.predictions[first]]} (60\N{NO-BREAK SPACE}%)"
    assert groups[0].pictures[0].text == f"true: {NAMES[focus.labels[first]]}\n{wrong}"
    assert all(picture.text.count("\n") == 2 for picture in groups[2].pictures)


def test_evenly_spaced_items_include_the_first_and_the_last():
    assert evenly_spaced(list(range(100)), 4) == [0, 33, 66, 99]
    assert evenly_spaced([5, 6], 4) == [5, 6]
    assert evenly_spaced([], 4) == []


# --- pictures ------------------------------------------------------------------------------------------


def test_large_images_are_reduced_and_small_ones_keep_their_pixels():
    random = np.random.default_rng(0).integers(0, 256, (4, 7, 3)).astype(np.uint8)
    np.testing.assert_array_equal(pixels(data_uri(random)), random)
    large = np.zeros((300, 600, 3), np.uint8)
    large[:, :300, 0] = 255
    reduced = pixels(data_uri(large))
    assert reduced.shape == (SIDE // 2, SIDE, 3)
    assert reduced[10, 10, 0] > 240 > 15 > reduced[10, -10, 0]
    assert data_uri(large).startswith("data:image/jpeg;base64,")


def test_damaged_missing_and_other_images_have_no_picture(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    write_beton(tmp_path / "test.beton", [noise, noise], np.array([0, 1]), storage="jpeg")
    content = bytearray((tmp_path / "test.beton").read_bytes())
    start = content.index(b"\xff\xd8\xff")
    content[start : start + 400] = bytes(400)
    (tmp_path / "test.beton").write_bytes(content)
    (tmp_path / "train.beton").write_bytes(b"no beton file")
    images = StudyImages({0: tmp_path, 1: tmp_path / "absent"})
    assert images.picture(0, "test", 0, 0) is None
    assert images.picture(0, "test", 1, 1) is not None
    assert images.picture(0, "test", 1, 0) is None, "the label differs"
    assert images.picture(0, "test", 2, 0) is None
    assert images.picture(0, "train", 0, 0) is None
    assert images.picture(1, "test", 0, 0) is None
    assert images.unreadable == 5
    assert images.labels(0, "train").size == 0


# --- errors by shot group ------------------------------------------------------------------------------


def test_errors_by_shot_group_have_numbers_of_images(results):
    table = group_error_table(results)
    line = next(line for line in table.lines if line[:2] == ["mem", "few"])
    wrong = np.zeros(3, dtype=int)
    for repeat in REPEATS:
        found = predictions(results, "mem", *repeat)
        groups = np.asarray(SHOTS)
        of_few = ~found.correct & (groups[found.labels] == 2)
        wrong += np.bincount(groups[found.predictions[of_few]], minlength=3)
    assert line[2] == "60"
    assert [int(cell.split(" ")[0]) for cell in line[3:]] == [wrong.sum(), *wrong.tolist()]
    svg = figures.error_matrices({"mem": (results.wrong_counts["mem"], results.shot_images["mem"])}).svg
    assert f"errors: {wrong.sum()}" in svg
    assert "n = 60" in svg


# --- sections ------------------------------------------------------------------------------------------


def sections_of(results: StudyResults, mini: Study) -> dict[str, Section]:
    chosen = chosen_methods(results.rows)
    sections = class_sections(scores_of(results, mini), chosen, [], manifest(), results)
    return {section.anchor: section for section in sections}


def test_a_study_on_precomputed_features_has_all_sections_without_pictures(results, mini):
    sections = sections_of(results, mini)
    assert list(sections) == ["classes", "confused-classes", "examples", "calibration"]
    assert sections["confused-classes"].intro.endswith(NO_IMAGES)
    content = [element for section in sections.values() for element in section.content]
    assert not any(isinstance(element, CaptionedPictures) for element in content)
    assert sum(isinstance(element, CaptionedTable) for element in content) == 4
    figure = next(element for element in content if isinstance(element, CaptionedFigure))
    assert "A class has 10 test images" in figure.caption
    assert "up to 15.8 points" in figure.caption


@pytest.fixture
def without_plots(monkeypatch) -> None:
    """Do not draw the figure of classes, which takes a second."""
    monkeypatch.setattr(class_figures, "accuracy_by_class", lambda *_: RenderedFigure("<svg/>", b""))


def test_the_table_of_classes_says_that_classes_without_test_images_are_not_listed(results, mini, without_plots):
    chosen, scores = chosen_methods(results.rows), scores_of(results, mini)
    absent = [replace(each, test_images=np.array([10, 10, 10, 10, 10, 0])) for each in scores]
    for found, start in ((scores, "All classes, lowest"), (absent, "All classes that have test images, lowest")):
        table = class_sections(found, chosen, [], manifest(), results)[0].content[1]
        assert isinstance(table, CaptionedTable)
        assert table.caption.startswith(start)


def test_titles_have_the_crops_and_tables_mark_transductive_heads(results, mini, without_plots):
    rows = [replace(row, crops="five crops at 248", transductive=row.variant == "ce") for row in results.rows]
    marked = StudyResults(**{**vars(results), "rows": rows})
    sections = sections_of(marked, mini)
    assert all("(five crops at 248)" in element.title for s in sections.values() for element in s.content)  # type: ignore[union-attr]
    (calibration,) = sections["calibration"].content
    assert isinstance(calibration, CaptionedTable)
    assert [line[0] for line in calibration.lines] == ["method", f"ce{MARK}", "crt", "mem"]


def test_a_single_method_without_errors_has_no_pairs_and_no_examples(tmp_path: Path, mini, without_plots):
    sections = sections_of(study_results(tmp_path, {"ce": 0.0}), mini)
    assert not sections["confused-classes"].content
    assert "examples" not in sections
