"""A fitted head with its backbone, as one classifier of images that leaves the run folders behind."""
