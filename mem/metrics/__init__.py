"""Metrics for classification on long-tailed data: pure functions of predictions and labels."""

from mem.metrics.accuracy import (
    balanced_accuracy,
    class_weighted,
    per_class_accuracy,
    shot_accuracy,
    top_k_accuracy,
)
from mem.metrics.bootstrap import balanced_standard_error, bootstrap_shots, paired_bootstrap_shots
from mem.metrics.calibration import expected_calibration_error
from mem.metrics.groups import (
    best_in_group,
    group_by_norm,
    group_confusion,
    group_recall,
    mean_by_group,
    oracle_accuracy,
)
from mem.metrics.hypothesis_tests import holm, mcnemar
from mem.metrics.intervals import Interval, PairedDifference, interval, paired_student, unit_means

__all__ = [
    "Interval",
    "PairedDifference",
    "balanced_accuracy",
    "balanced_standard_error",
    "best_in_group",
    "bootstrap_shots",
    "class_weighted",
    "expected_calibration_error",
    "group_by_norm",
    "group_confusion",
    "group_recall",
    "holm",
    "interval",
    "mcnemar",
    "mean_by_group",
    "oracle_accuracy",
    "paired_bootstrap_shots",
    "paired_student",
    "per_class_accuracy",
    "shot_accuracy",
    "top_k_accuracy",
    "unit_means",
]
