"""Time limits for the end of the mirror. The mirror and the workflow process that stops it share them."""

from __future__ import annotations

KILL_SECONDS = 120.0
"""Seconds that the workflow process waits for a mirror that it has asked to end, before it kills the mirror."""
_MARGIN_SECONDS = 20.0
"""Seconds for a new mirror to start, because `KILL_SECONDS` include its start and `LAST_PASS_SECONDS` do not."""
LAST_PASS_SECONDS = KILL_SECONDS - _MARGIN_SECONDS
"""Seconds that a mirror continues to try after it was asked to end. It then ends by itself, before it is killed."""
