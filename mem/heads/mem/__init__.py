"""The mutual exclusive modulator (section 3 of the paper), with one file per component.

docs/explanation/mem.md lists the details that the paper leaves open, and how this package implements them.
"""
