"""Augmentation. Every random choice is a function of numbers that belong to the sample, not of a generator's state."""
