"""Downloads that resume after an interruption."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from mem import files
from mem.errors import UserError

TIMEOUT_SECONDS = 30
_BLOCK_BYTES = 1 << 20


def download(address: str, part: Path, say: Callable[[str], None], manually: str) -> None:
    """Download an address (http, https or file) to the file `part`, and resume an earlier attempt if there is one.

    Args:
        address: Address of the file.
        part: File to which the download is written. It is complete when this function returns.
        say: Called with progress messages.
        manually: The command that uses a file that was downloaded manually, for error messages.

    Raises:
        UserError: The download failed. The bytes received so far remain in `part`. The message explains how to download
            the file manually.
    """
    note = part.with_name(f"{part.name}.json")
    start = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(address, headers={"User-Agent": "mem"})
    if start:
        request.add_header("Range", f"bytes={start}-")
        if version := _version(note, address):
            request.add_header("If-Range", version)
        else:
            start = 0
            request.headers.pop("Range")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            resumed = start > 0 and response.status == http.client.PARTIAL_CONTENT
            start = start if resumed else 0
            if resumed:
                say(f"Resuming the download after {start / 1e6:.0f} MB.")
            version = response.headers.get("ETag") or response.headers.get("Last-Modified")
            note.write_text(json.dumps({"address": address, "version": version}))
            length = response.headers.get("Content-Length")
            with open(part, "ab" if resumed else "wb") as file:
                received = 0
                while block := response.read(_BLOCK_BYTES):
                    with files.naming(part):
                        file.write(block)
                    received += len(block)
                with files.naming(part):
                    file.flush()
                    os.fsync(file.fileno())
            if length is not None and received != int(length):
                raise http.client.IncompleteRead(b"", int(length) - received)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()
            download(address, part, say, manually)
            return
        raise UserError(
            f"{address}: the server responded with status {error.code} ({error.reason}). {_by_hand(address, manually)}"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        kept = part.stat().st_size if part.is_file() else 0
        so_far = f" {kept / 1e6:.0f} MB were received; the same command resumes the download." if kept else ""
        raise UserError(f"{address}: cannot be downloaded: {reason}.{so_far} {_by_hand(address, manually)}") from None
    note.unlink()


def _by_hand(address: str, manually: str) -> str:
    return f"Alternatively, download {address} with a browser or on another machine, and run: {manually}"


def _version(note: Path, address: str) -> str | None:
    """Return the server's version (ETag or date) of the partly downloaded file, or None if it is unknown."""
    try:
        content = json.loads(note.read_text())
    except (OSError, ValueError):
        return None
    return content.get("version") if content.get("address") == address else None
