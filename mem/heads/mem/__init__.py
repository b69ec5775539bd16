"""Mutual exclusive modulator (section 3 of the paper), one file per part.

docs/explanation/mem.md lists what the paper leaves open.
"""
