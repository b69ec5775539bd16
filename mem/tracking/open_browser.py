"""Open an address in the browser as soon as its server responds: `python -m mem.tracking.open_browser ADDRESS`."""

from __future__ import annotations

import sys
import time
import webbrowser
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

_SECONDS = 120.0
"""Time after which the server is not expected to start any more."""


def open_when_ready(address: str) -> bool:
    """Wait for the server of an address, and open the address. Return whether a browser was found."""
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        try:
            urlopen(address.partition("#")[0], timeout=5).close()
            return webbrowser.open(address)
        except HTTPError:  # the server responds, for example with a request for a password
            return webbrowser.open(address)
        except (URLError, OSError):
            time.sleep(0.5)
    return False


if __name__ == "__main__":
    if not open_when_ready(sys.argv[1]):
        print(f"mem: no browser can be opened. Open this address yourself: {sys.argv[1]}", file=sys.stderr)
