"""Experiment tracking. Stages append to a log in the run folder, and a single mirror sends all logs to MLflow."""
