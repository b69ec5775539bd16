"""Records of downloaded files of the hub: the digest that was published or, on first use, computed.

They are in the folder of downloaded weights (see `mem.models.weights.official.weights_folder`), because the cache of
the hub's library also belongs to other programs.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from mem import files
from mem.models.weights.official import weights_folder


@dataclass(frozen=True)
class HubRecord:
    """What is known about a downloaded file of the hub."""

    name: str
    repository: str
    commit: str
    file: str
    sha256: str
    checksum: str | None
    """Published checksum: `sha256:` with 64 digits, or `git:` with git's id of the file. None if it is not known."""
    fetched: str


def record_path(repository: str, commit: str, file: str) -> Path:
    """Return the path of the record of a file."""
    return _folder() / repository.replace("/", "--") / f"{commit}-{file}.json"


def read_record(repository: str, commit: str, file: str) -> HubRecord | None:
    """Return the record of a file, or None if it was not downloaded by mem."""
    return _read(record_path(repository, commit, file))


def write_record(record: HubRecord) -> None:
    """Write the record of a file."""
    path = record_path(record.repository, record.commit, record.file)
    files.write_text(path, json.dumps(asdict(record), indent=2) + "\n")


def records() -> Iterator[HubRecord]:
    """Yield the records of all downloaded weights of the hub."""
    for path in sorted(_folder().glob("*/*.json")):
        if (record := _read(path)) is not None:
            yield record


def _folder() -> Path:
    return weights_folder() / "hub"


def _read(path: Path) -> HubRecord | None:
    with contextlib.suppress(OSError, ValueError, TypeError):  # a missing or damaged record is written again
        return HubRecord(**json.loads(path.read_text(encoding="utf-8")))
    return None
