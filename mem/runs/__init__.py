"""Runs of a study: the DAG, keys, folders, configurations, and differences between two runs."""
