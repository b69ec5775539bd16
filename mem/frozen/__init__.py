"""Heads on anyone's frozen features, without a study: `extract`, `fit_head`, and what a fitted head says of images."""

from mem.frozen.defaults import head_settings
from mem.frozen.extraction import Extracted, extract
from mem.frozen.fitting import FittedHead, GroupSignals, fit_head, load_fitted

__all__ = ["Extracted", "FittedHead", "GroupSignals", "extract", "fit_head", "head_settings", "load_fitted"]
