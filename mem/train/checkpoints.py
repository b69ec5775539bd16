"""Checkpoints: written whole or not at all, the newest valid one found again, few kept."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

import torch
from typing_extensions import Buffer

from mem import files
from mem.distributed import ALONE, World

KEPT = 2
"""Checkpoints that stay: the newest, and the one before it in case the newest is damaged."""
EPOCH_SECONDS = 20
"""At an epoch's end a checkpoint is written if the last one is older than this, or than its own interval."""


@runtime_checkable
class Resumable(Protocol):
    """What can be saved and restored; see `mem.train.loop.TrainState`."""

    step: int

    def snapshot(self) -> Mapping[str, Any]:
        """Everything there is to restore."""
        ...

    def restore(self, snapshot: Any) -> None:
        """Become what `snapshot` describes."""
        ...


@dataclass
class Checkpoints:
    """The checkpoints of one run.

    Each is a file `step-N.pt` and, written after it, a note `step-N.json` with its size, checksum and the run's key.
    """

    folder: Path
    key: str
    every_seconds: float
    warn: Callable[[str], None]
    world: World = ALONE

    def __post_init__(self) -> None:
        self._last = time.monotonic()

    def restore_latest(self, state: Resumable) -> bool:
        """Restore the newest valid checkpoint, on all ranks; damaged ones are named and passed over.

        Returns:
            Whether there was one.
        """
        found = self.world.from_main(self._newest_valid() if self.world.is_main else None)
        if found is None:
            return False
        snapshot = torch.load(found, map_location="cpu", weights_only=True)
        state.restore(snapshot)
        self._last = time.monotonic()
        return True

    def due(self, *, epoch_ended: bool) -> bool:
        """Whether it is time to save. Only rank 0 saves, so only its clock counts."""
        age = time.monotonic() - self._last
        limit = min(self.every_seconds, EPOCH_SECONDS) if epoch_ended else self.every_seconds
        return self.world.is_main and age >= limit

    def save(self, state: Resumable) -> None:
        """Write a checkpoint and remove old ones. Rank 0 alone does it; the other ranks may go on.

        Raises:
            OSError: It could not be written; the older ones stay.
        """
        if not self.world.is_main:
            return
        path = self.folder / f"step-{state.step:09d}.pt"
        with files.atomic(path, "wb") as file:
            writer = _Checked(file)
            try:
                torch.save(state.snapshot(), writer)  # type: ignore[arg-type]
            except RuntimeError:
                # torch complains anew when it closes the archive, and hides what the file system said.
                if writer.failure is not None:
                    raise writer.failure from None
                raise
        note = {"step": state.step, "bytes": writer.bytes, "crc32": writer.crc32, "key": self.key}
        files.write_text(path.with_suffix(".json"), json.dumps(note) + "\n")
        for old in self._newest_first()[KEPT:]:
            old.unlink(missing_ok=True)
            old.with_suffix(".pt").unlink(missing_ok=True)
        self._last = time.monotonic()

    def clear(self) -> None:
        """Remove all checkpoints: the run has its final weights."""
        if self.world.is_main and self.folder.is_dir():
            for path in self.folder.iterdir():
                path.unlink()
            self.folder.rmdir()

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.json"), reverse=True)

    def _newest_valid(self) -> Path | None:
        for note in self._newest_first():
            path = note.with_suffix(".pt")
            fault = self._fault(note, path)
            if fault is None:
                return path
            self.warn(f"Checkpoint {path} is not used: {fault}. The next older one is tried.")
        return None

    def _fault(self, note: Path, path: Path) -> str | None:
        try:
            expected = json.loads(note.read_text())
            size, crc32, key = expected["bytes"], expected["crc32"], expected["key"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            return f"its note {note.name} cannot be read ({error})"
        if key != self.key:
            return f"it belongs to run {key}, not {self.key}"
        try:
            if path.stat().st_size != size:
                return f"it has {path.stat().st_size} bytes and should have {size}"
            with open(path, "rb") as file:
                found = 0
                while block := file.read(1 << 22):
                    found = zlib.crc32(block, found)
        except OSError as error:
            return f"it cannot be read ({error})"
        return None if found == crc32 else "its checksum is wrong"


class NoCheckpoints(Checkpoints):
    """For a training that is over in one call: nothing is saved and nothing is looked for."""

    def __init__(self) -> None:
        super().__init__(Path(), "", float("inf"), lambda text: None)

    def restore_latest(self, state: Resumable) -> bool:
        """There is none."""
        return False

    def due(self, *, epoch_ended: bool) -> bool:
        """Never."""
        return False

    def save(self, state: Resumable) -> None:
        """Save nothing."""


class _Checked:
    """Counts and checksums what passes through to a file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.bytes = 0
        self.crc32 = 0
        self.failure: OSError | None = None

    def write(self, data: Buffer) -> int:
        self.bytes += memoryview(data).nbytes
        self.crc32 = zlib.crc32(data, self.crc32)
        try:
            return self._file.write(data)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        self._file.flush()
