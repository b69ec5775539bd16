"""Features of a frozen backbone: files, writing, reading and batches."""
