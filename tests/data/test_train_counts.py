"""Numbers of training images that a converted dataset describes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mem.data.convert.convert import train_counts, train_counts_before_holdout


@pytest.mark.parametrize(
    ("entry", "before"), [({"counts_before_holdout": [110, 20, 3]}, [110, 20, 3]), ({}, [99, 18, 2])]
)
def test_the_images_of_a_holdout_count_before_it(tmp_path, entry, before):
    manifest = {"splits": {"train": {"counts": [99, 18, 2]}}, **entry}
    (tmp_path / "dataset.json").write_text(json.dumps(manifest))
    np.testing.assert_array_equal(train_counts(tmp_path), [99, 18, 2])
    np.testing.assert_array_equal(train_counts_before_holdout(tmp_path), before)
