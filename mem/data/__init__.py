"""Data: readers of image data sets, checks, conversion to `.beton` files, data loading and cached features."""
