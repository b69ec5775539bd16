"""A process that imports PyTorch and the code of heads once, and forks one process per run."""
