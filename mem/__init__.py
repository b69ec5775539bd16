"""Long-tailed image classification as one resumable workflow, from images to compared classifiers."""

__version__ = "0.1.0"
