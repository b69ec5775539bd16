"""Features of a frozen backbone: file format, writer, readers and batches."""
