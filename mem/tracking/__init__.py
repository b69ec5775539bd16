"""Metrics: jobs append to a log in their run folder; one mirror sends the logs to MLflow."""
