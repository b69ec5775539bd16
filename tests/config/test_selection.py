"""The section `selection` is accepted only for a dataset without a val split."""

from __future__ import annotations

import pytest

from mem.config import Study
from tests.config.studies import error_message

SELECTION = {"holdout": {"share": 0.1, "seed": 0}}


@pytest.fixture
def values(mini_values) -> dict:
    """The mini study without a val split, with `selection`."""
    mini_values["dataset"]["cut"]["val_per_class"] = 0
    return mini_values | {"selection": SELECTION}


def test_a_study_without_a_val_split_can_select(values):
    assert Study.model_validate(values).selection is not None


def test_a_val_split_is_refused(tmp_path, values):
    values["dataset"]["cut"]["val_per_class"] = 10
    assert "selection: is for datasets without a val split, but this one has a val split" in error_message(
        tmp_path, values
    )


def test_two_holdouts_are_refused(tmp_path, values):
    values["dataset"]["holdout"] = {"share": 0.2, "seed": 0}
    assert "selection: cannot be combined with dataset.holdout" in error_message(tmp_path, values)


def test_candidates_without_val_and_without_selection_are_refused_with_the_setting_to_add(tmp_path, values):
    del values["selection"]
    message = error_message(tmp_path, values)
    assert "heads.tau.taus: selection from 3 values requires a val split, which the dataset does not have" in message
    assert "Add `selection: {holdout: {share: 0.1, seed: 0}}`" in message


def test_the_share_must_be_between_0_and_1(tmp_path, values):
    values["selection"] = {"holdout": {"share": 1.0, "seed": 0}}
    assert "`selection.holdout.share` is 1.0" in error_message(tmp_path, values)
