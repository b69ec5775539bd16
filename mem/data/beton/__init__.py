"""FFCV file format (.beton): encoder, writer and reader."""
