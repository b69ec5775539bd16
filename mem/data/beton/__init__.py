"""FFCV's file format (.beton): reading and writing."""
