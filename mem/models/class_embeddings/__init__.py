"""Class embeddings: one vector per class from a file or from a text model, in the width of a backbone's features."""
