"""Heads: classifiers on top of frozen backbone features, with one file per method."""
