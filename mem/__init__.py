"""Long-tailed image classification as one resumable workflow, from images to a comparison of classifiers."""

__version__ = "0.1.0"
