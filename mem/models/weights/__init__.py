"""Model weights: files, external and official checkpoints, downloads, and loading with a report of every key.

This module imports nothing, so that `mem weights` can list and download checkpoints without importing PyTorch.
"""
