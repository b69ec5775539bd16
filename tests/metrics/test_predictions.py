"""Predictions files, and scores that are computed from them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from mem.errors import UserError
from mem.metrics.predictions import (
    PredictionMetadata,
    Predictions,
    read_metadata,
    read_predictions,
    require_same_images,
    write_predictions,
)
from mem.metrics.scores import classes_without_images, scalars, split_scores

SHOTS = (0, 0, 1, 1, 2, 2)
ABOUT = PredictionMetadata("digits", "mem", "0123456789ab", "many>100 few<20", SHOTS, group_of_class=SHOTS)


def predicted(images: int, seed: int = 0, *, mem: bool = True, top: int = 5) -> Predictions:
    generator = np.random.default_rng(seed)
    order = np.argsort(generator.random((images, len(SHOTS))), axis=1)
    probabilities = np.sort(generator.dirichlet(np.ones(len(SHOTS)), images), axis=1)[:, ::-1]
    return Predictions(
        labels=np.arange(images) % len(SHOTS),
        predictions=order[:, 0],
        top=order[:, :top],
        top_probabilities=probabilities[:, :top].astype(np.float32),
        best_in_shot=np.stack([2 * g + generator.integers(0, 2, images) for g in range(3)], axis=1),
        weights=generator.random((images, 3), dtype=np.float32) if mem else None,
        norms=generator.random((images, 3), dtype=np.float32) if mem else None,
        names=[f"img/{i}.png" for i in range(images)] if mem else None,
    )


@pytest.mark.parametrize(("mem", "top"), [(True, 5), (False, 2)])
def test_predictions_are_read_as_they_were_written(tmp_path, mem, top):
    splits = {"val": predicted(11, 1, mem=mem, top=top), "test": predicted(30, 2, mem=mem, top=top)}
    path = tmp_path / "predictions.parquet"
    write_predictions(path, ABOUT, splits)
    about, found = read_predictions(path)
    assert (about.dataset, tuple(about.shot_of_class), list(found)) == ("digits", SHOTS, ["val", "test"])
    for name, split in splits.items():
        for field, value in vars(split).items():
            np.testing.assert_array_equal(getattr(found[name], field), value, err_msg=field)
        assert split_scores(found[name], about) == split_scores(split, ABOUT)


def test_the_number_of_experts_is_averaged_by_shot_group(tmp_path):
    split = replace(predicted(6), experts_used=np.array([1, 2, 3, 3, 1, 1]))
    write_predictions(tmp_path / "p.parquet", ABOUT, {"test": split})
    found = read_predictions(tmp_path / "p.parquet")[1]["test"]
    np.testing.assert_array_equal(found.experts_used, split.experts_used)
    scores = split_scores(found, ABOUT)
    assert scores["experts_used"] == {"many": 1.5, "medium": 3.0, "few": 1.0, "all": 1.8333}
    assert scalars(scores)["experts_used_medium"] == 3.0
    assert "experts_used" not in split_scores(predicted(6), ABOUT)


def test_with_crops_the_number_of_experts_is_a_mean_and_the_file_names_the_crops(tmp_path):
    used = np.array([1.5, 2, 3, 3, 1, 1.25], dtype=np.float32)
    path, about = tmp_path / "p.parquet", replace(ABOUT, crops="five crops at 248")
    write_predictions(path, about, {"test": replace(predicted(6), experts_used=used)})
    found = read_predictions(path)[1]["test"]
    assert found.experts_used is not None and found.experts_used.tolist() == used.tolist()
    assert split_scores(found, about)["experts_used"]["many"] == 1.75
    assert read_metadata(path).crops == about.crops
    write_predictions(path, ABOUT, {"test": predicted(6)})
    content = json.loads(pq.read_schema(path).metadata[b"mem"])
    assert read_metadata(path).crops == "" and "crops" not in content, (
        "files without crops are those of earlier versions"
    )


def test_names_that_are_not_utf_8_are_escaped(tmp_path):
    split = replace(predicted(1), names=["caf\udce9.png"])
    write_predictions(tmp_path / "p.parquet", ABOUT, {"test": split})
    assert read_predictions(tmp_path / "p.parquet")[1]["test"].names == ["caf\\udce9.png"]


def test_scores_are_percentages_and_null_for_a_shot_group_without_images():
    everything = predicted(60)
    some = np.flatnonzero(everything.labels < 4)
    without = Predictions(**{k: v[some] for k, v in vars(everything).items() if k not in ("names", "experts_used")})
    scores = split_scores(without, ABOUT)
    assert classes_without_images(without, 6) == [4, 5]
    assert scores["accuracy"]["few"] is None
    assert scores["oracle"]["few"] is None
    assert scores["group_recall"]["few"] is None
    assert scores["interval"]["few"] == [None, None]
    assert scores["group_by_norm"]["by_group"][2] is None
    assert scores["norms"][2] == [None, None, None]
    assert "few" not in scalars(scores)
    assert scalars(scores)["acc1"] == scores["accuracy"]["all"] == pytest.approx(100 * without.correct.mean(), abs=1e-3)
    low, high = scores["interval"]["all"]
    assert low < scores["accuracy"]["all"] < high


def test_groups_named_by_norms_and_by_classes_are_scored_in_the_partition_of_the_head():
    split, partition = predicted(60), (0, 1, 2, 0, 1, 2)
    scores = split_scores(split, replace(ABOUT, group_of_class=partition))
    group = np.array(partition)
    by_class = group[split.predictions] == group[split.labels]
    by_norm = split.norms.argmax(axis=1) == group[split.labels]
    for name, right in (("group_by_class", by_class), ("group_by_norm", by_norm)):
        assert scores[name]["all"] == pytest.approx(100 * right.mean(), abs=1e-3)
        expected = [100 * right[group[split.labels] == g].mean() for g in range(3)]
        assert scores[name]["by_group"] == pytest.approx(expected, abs=1e-3)
        assert scores[name]["interval"][0] < scores[name]["all"] < scores[name]["interval"][1]
        assert scalars(scores)[name] == scores[name]["all"]


def test_the_metadata_are_read_without_the_predictions(tmp_path):
    write_predictions(tmp_path / "p.parquet", ABOUT, {"test": predicted(3)})
    assert read_metadata(tmp_path / "p.parquet") == ABOUT
    (tmp_path / "p.parquet").write_bytes(b"no Parquet")
    with pytest.raises(UserError, match="not a predictions file of `mem evaluate`, or damaged"):
        read_metadata(tmp_path / "p.parquet")


def test_a_head_without_groups_has_no_scores_of_groups_by_norm():
    scores = split_scores(predicted(20, mem=False), replace(ABOUT, group_of_class=None))
    assert {"group_by_norm", "group_by_class"}.isdisjoint(scores)
    assert {"top5", "balanced", "ece", "oracle_all", "group_recall_few"} <= set(scalars(scores))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (predicted(29), "has predictions for 30 images and b for 29"),
        (replace(predicted(30), labels=np.zeros(30, dtype=np.int64)), "have different labels for 25 of 30 images"),
        (replace(predicted(30), names=[str(i) for i in range(30)]), "different images, although the labels agree"),
    ],
)
def test_predictions_for_different_images_cannot_be_compared(other, message):
    with pytest.raises(UserError, match=message):
        require_same_images(predicted(30), other, ("a", "b"))


def test_files_without_predictions_are_named(tmp_path):
    with pytest.raises(UserError, match=r"none.parquet: file not found. Run `mem evaluate` to write it."):
        read_predictions(tmp_path / "none.parquet")
    (tmp_path / "truncated.parquet").write_bytes(b"PAR1 half of it")
    with pytest.raises(UserError, match=r"truncated.parquet: not a predictions file of `mem evaluate`, or damaged"):
        read_predictions(tmp_path / "truncated.parquet")
