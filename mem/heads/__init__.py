"""Heads: classifiers on features of a frozen backbone, one file per method."""
