"""Layout of a sheet of reconstructed images.

The report uses it to cut a sheet into its images, without importing the models.
"""

from __future__ import annotations

GAP_PIXELS = 4
"""Width of the white space between images."""
COLUMNS = 3
"""Columns of a sheet: the image, its visible patches, and its reconstruction."""
