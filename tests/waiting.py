"""Waiting for a condition while a process runs. The plugin's tests define it, because they also run on their own."""

from workflow_runner import wait as wait
