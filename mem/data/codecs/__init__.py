"""Decoders for image files, and a parser for JPEG headers."""
