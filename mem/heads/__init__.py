"""Classifiers on frozen features: one file per method, each source named there."""
