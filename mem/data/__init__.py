"""Dataset readers, dataset checks, conversion to `.beton` files, data loading, and cached features."""
