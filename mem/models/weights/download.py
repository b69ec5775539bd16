"""Fetching a large file so that an interruption loses nothing."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from mem.errors import UserError

TIMEOUT_SECONDS = 30
_BLOCK = 1 << 20


def download(address: str, part: Path, say: Callable[[str], None]) -> None:
    """Fetch an address (http, https or file) into `part`, going on where an earlier attempt stopped.

    Raises:
        UserError: It cannot be fetched; what came so far stays, and the message says how to get it by hand.
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
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            resumed = start > 0 and answer.status == http.client.PARTIAL_CONTENT
            start = start if resumed else 0
            if resumed:
                say(f"Going on after {start / 1e6:.0f} MB.")
            version = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
            note.write_text(json.dumps({"address": address, "version": version}))
            left = answer.headers.get("Content-Length")
            with open(part, "ab" if resumed else "wb") as file:
                came = 0
                while block := answer.read(_BLOCK):
                    file.write(block)
                    came += len(block)
                file.flush()
                os.fsync(file.fileno())
            if left is not None and came != int(left):
                raise http.client.IncompleteRead(b"", int(left) - came)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()
            download(address, part, say)
            return
        raise UserError(f"{address}: the server answers {error.code} ({error.reason}). {_by_hand(address)}") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        kept = part.stat().st_size if part.is_file() else 0
        so_far = f" {kept / 1e6:.0f} MB are here; the same command goes on from there." if kept else ""
        raise UserError(f"{address}: cannot be fetched: {reason}.{so_far} {_by_hand(address)}") from None
    note.unlink()


def _by_hand(address: str) -> str:
    return f"By hand: fetch {address} with a browser or elsewhere, then: mem weights get NAME --from FILE"


def _version(note: Path, address: str) -> str | None:
    """What the server called the file of which a part is here; None where that is not known."""
    try:
        content = json.loads(note.read_text())
    except (OSError, ValueError):
        return None
    return content.get("version") if content.get("address") == address else None
