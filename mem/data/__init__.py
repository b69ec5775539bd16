"""Data: readers of image datasets, checks, conversion to `.beton` files, data loading and cached features."""
