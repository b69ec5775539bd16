"""Wait for a condition, and look for processes. Both are defined in the plugin's tests, which can run separately."""

from workflow_runner import running as running
from workflow_runner import wait as wait
