"""Tracking: stages append to a log in their run folder, and one mirror sends the logs to MLflow."""
