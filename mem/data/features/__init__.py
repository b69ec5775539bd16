"""Features of a frozen backbone: files, reading, writing."""
