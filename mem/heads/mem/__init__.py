"""Mutual exclusive modulator (section 3 of the paper), with one file per component.

docs/explanation/mem.md lists the details that the paper does not specify.
"""
