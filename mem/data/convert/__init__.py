"""Conversion of a dataset's images to one .beton file per split."""
