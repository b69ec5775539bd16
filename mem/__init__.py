"""Long-tailed recognition, from images to compared classifiers, as one resumable workflow."""

__version__ = "0.1.0"
