"""Batches for training and evaluation: sampling, decoding, prefetching, buffers."""
