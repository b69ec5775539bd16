"""Wait for a condition while a process runs. The function is in the plugin's tests, which can also run separately."""

from workflow_runner import wait as wait
