"""Decoding of image files, and reading of JPEG headers."""
