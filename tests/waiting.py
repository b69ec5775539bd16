"""Wait for a condition while a process runs. `wait` is defined in the plugin's tests, which can run separately."""

from workflow_runner import wait as wait
