"""Images: readers of data sets, conversion to FFCV's format, loaders, cached features."""
