"""Augmentation: every choice a function of numbers that belong to the sample, never of a generator's history."""
