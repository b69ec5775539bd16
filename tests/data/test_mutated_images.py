"""Mutated image files are accepted, or rejected with a reason, by all parts that open images."""

from __future__ import annotations

import pytest

from benchmarks import mutated_images


# The check decodes in threads. Python's list of ignored warnings belongs to the process, so one thread can restore the
# tests' filter, which turns warnings into errors, while another thread decodes.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("seed", range(8))
def test_check_conversion_training_and_prediction_agree_on_mutated_files(seed):
    accepted, problems = mutated_images.run_group(seed, range(mutated_images.GROUP))
    assert problems == []
    assert 5 <= accepted <= mutated_images.GROUP - 5
    assert mutated_images.mutated(seed, 3) == mutated_images.mutated(seed, 3)
