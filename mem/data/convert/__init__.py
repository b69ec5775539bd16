"""Conversion of the images of a dataset to one .beton file per split."""
