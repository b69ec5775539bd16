"""Image augmentation. Random choices depend only on the sample's random numbers, not on a generator's state."""
