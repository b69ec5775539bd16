"""Dataset checks before conversion: counts, labels, files and file contents."""
