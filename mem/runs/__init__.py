"""The runs of a study: which there are, their keys, their folders, and the difference between two of them."""
