"""The runs of a study: the DAG, keys, folders, configurations, and the difference between two runs."""
