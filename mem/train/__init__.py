"""Training: loop, checkpoints, meters, optimizers, learning-rate schedules and micro-batches."""
