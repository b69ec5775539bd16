"""Checks a site before the first run: python -m cluster.doctor --partition P --account A.

Each check says in one line what it found and, where something is wrong, what to do.
"""
