"""Python API for heads on frozen features, without a study.

`extract` computes features, `fit_head` fits a head on features, `score_by_shot` scores predictions by shot group, and
`load_fitted` loads a saved head.
"""

from mem.frozen.defaults import head_settings
from mem.frozen.extraction import Extracted, extract
from mem.frozen.fitting import FittedHead, GroupSignals, fit_head, load_fitted
from mem.frozen.scoring import ShotScores, score_by_shot

__all__ = [
    "Extracted",
    "FittedHead",
    "GroupSignals",
    "ShotScores",
    "extract",
    "fit_head",
    "head_settings",
    "load_fitted",
    "score_by_shot",
]
