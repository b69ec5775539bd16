"""Export: a head and its backbone as one image classifier that does not need the run folders."""
