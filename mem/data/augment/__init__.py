"""Image augmentation. Random choices depend only on the sample's random numbers, not on the state of a generator."""
