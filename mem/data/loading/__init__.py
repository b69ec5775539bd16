"""Data loaders for training and evaluation: sampling, decoding, prefetching, and buffer reuse."""
