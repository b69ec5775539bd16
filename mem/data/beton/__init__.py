"""FFCV file format (.beton): encoding, writing and reading."""
