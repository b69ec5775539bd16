"""Image decoding: from the content of a file to pixels."""
