"""Conversion of the images of a data set to one .beton file per split."""
