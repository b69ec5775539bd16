"""Export a head and its backbone as one image classifier that does not depend on the run folders."""
