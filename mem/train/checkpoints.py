"""Checkpoints of a run: written atomically, verified by checksum, and restored from the newest valid one.

A background thread writes a checkpoint while training continues. Training waits only until the state is copied to main
memory. See docs/decisions/0049-checkpoints-in-the-background.md.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, runtime_checkable

import torch
from typing_extensions import Buffer

from mem import files
from mem.distributed import SINGLE_PROCESS, World
from mem.errors import UserError
from mem.train.sizes import KEPT_CHECKPOINTS

EPOCH_SECONDS = 20
"""At the end of an epoch, a checkpoint is due if the last one is older than this number of seconds, or older than the
configured interval if the interval is shorter."""


@runtime_checkable
class Resumable(Protocol):
    """Interface of a state that can be saved and restored, such as `mem.train.state.TrainState`."""

    step: int

    def snapshot(self) -> Mapping[str, Any]:
        """Return everything that `restore` needs."""
        ...

    def restore(self, snapshot: Any) -> None:
        """Restore the state that `snapshot` describes."""
        ...


@dataclass
class Checkpoints:
    """The checkpoints of one run.

    A checkpoint consists of a file `step-N.pt` and a description `step-N.json`, which contains the file's size and
    checksum and the run's key. The description is written last, so a checkpoint without a description is incomplete and
    is ignored.

    As a context manager, the object waits for the last write when the context ends.
    """

    folder: Path
    key: str
    every_seconds: float
    warn: Callable[[str], None]
    world: World = SINGLE_PROCESS

    def __post_init__(self) -> None:
        self._last_saved = time.monotonic()
        self._writer: Future[None] | None = None
        """The write in progress, or a finished write whose result has not been checked."""
        self._content: Any = None
        """Copy of the state in main memory, for the write in progress. The next save uses its memory again."""

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except OSError as failure:
            if error is None:
                raise
            self.warn(f"A checkpoint could not be written: {failure}")

    def restore_latest(self, state: Resumable) -> bool:
        """Restore the newest valid checkpoint on all ranks. Skip invalid checkpoints with a warning.

        Returns:
            Whether a checkpoint was restored.

        Raises:
            UserError: The checkpoint is of another model.
        """
        self.wait()
        if self.world.is_main:
            self._remove_incomplete()
        path = self.world.from_main(self._newest_valid() if self.world.is_main else None)
        if path is None:
            return False
        snapshot = torch.load(path, map_location="cpu", weights_only=True)
        try:
            state.restore(snapshot)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        self._last_saved = time.monotonic()
        return True

    def due(self, *, epoch_ended: bool) -> bool:
        """Return whether it is time to save. Always False on ranks other than 0, which do not save.

        Raises:
            OSError: The previous checkpoint could not be written.
        """
        if self._writer is not None and self._writer.done():
            self.wait()
        age = time.monotonic() - self._last_saved
        limit = min(self.every_seconds, EPOCH_SECONDS) if epoch_ended else self.every_seconds
        return self.world.is_main and age >= limit

    def save(self, state: Resumable) -> None:
        """Copy the state to main memory, and start to write it in a background thread.

        If the previous checkpoint is still being written, wait for it first. Only rank 0 writes; the other ranks return
        immediately.

        Raises:
            OSError: The previous checkpoint could not be written. Older checkpoints are kept.
        """
        if not self.world.is_main:
            return
        self.wait()
        self._content = copy_to_host(state.snapshot(), self._content)
        # The thread is not a daemon: the interpreter waits for it when the process ends with an error.
        executor = ThreadPoolExecutor(1, "checkpoint")
        self._writer = executor.submit(self._write, state.step, self._content)
        executor.shutdown(wait=False)
        self._last_saved = time.monotonic()

    def wait(self) -> None:
        """Wait until the last checkpoint is on disk.

        Raises:
            OSError: The checkpoint could not be written. Older checkpoints are kept.
        """
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.result()

    def wait_on_all_ranks(self) -> None:
        """Wait on all ranks until rank 0 has written its last checkpoint. All ranks must call this function.

        `srun --kill-on-bad-exit`, which the executor plugin uses, ends all ranks when one ends with an error status, as
        that of a stop. Therefore no rank may end earlier.

        Raises:
            OSError: The checkpoint could not be written (on rank 0). Older checkpoints are kept.
        """
        try:
            self.wait()
        finally:
            self.world.barrier()

    def _write(self, step: int, content: Any) -> None:
        """Write a checkpoint and remove old ones."""
        path = self.folder / f"step-{step:09d}.pt"
        with files.atomic(path, "wb") as file:
            writer = _ChecksumWriter(file)
            try:
                torch.save(content, writer)  # type: ignore[arg-type]
            except RuntimeError:
                # After a failed write, torch raises a second error when it closes the archive. Raise the first error.
                if writer.failure is not None:
                    raise writer.failure from None
                raise
        description = {"step": step, "bytes": writer.bytes, "crc32": writer.crc32, "key": self.key}
        files.write_text(path.with_suffix(".json"), json.dumps(description) + "\n")
        for old in self._newest_first()[KEPT_CHECKPOINTS:]:
            old.unlink(missing_ok=True)
            old.with_suffix(".pt").unlink(missing_ok=True)

    def _remove_incomplete(self) -> None:
        """Remove the files of writes that were killed. Only one process at a time works in the folder."""
        for path in (*self.folder.glob(".step-*.tmp"), *self.folder.glob("step-*.pt")):
            if path.suffix == ".tmp" or not path.with_suffix(".json").exists():
                path.unlink(missing_ok=True)

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.json"), reverse=True)

    def _newest_valid(self) -> Path | None:
        for description in self._newest_first():
            path = description.with_suffix(".pt")
            problem = self._problem(description, path)
            if problem is None:
                return path
            self.warn(f"Skipping checkpoint {path}: {problem}. Trying the next older checkpoint.")
        return None

    def _problem(self, description: Path, path: Path) -> str | None:
        """Return why a checkpoint cannot be used, or None if it is valid."""
        try:
            expected = json.loads(description.read_text())
            size, crc32, key = expected["bytes"], expected["crc32"], expected["key"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            return f"cannot read {description.name} ({error})"
        if key != self.key:
            return f"it belongs to run {key}, not {self.key}"
        try:
            if (actual_size := path.stat().st_size) != size:
                return f"its size is {actual_size} bytes, expected {size}"
            with open(path, "rb") as file:
                actual_crc32 = 0
                while block := file.read(1 << 22):
                    actual_crc32 = zlib.crc32(block, actual_crc32)
        except OSError as error:
            return f"cannot read it ({error})"
        return None if actual_crc32 == crc32 else "its checksum is wrong"


class NoCheckpoints(Checkpoints):
    """Replacement for `Checkpoints` that saves nothing, for short training runs that are not resumed."""

    def __init__(self) -> None:
        super().__init__(Path(), "", float("inf"), lambda text: None)

    def restore_latest(self, state: Resumable) -> bool:
        """Restore nothing and return False."""
        return False

    def due(self, *, epoch_ended: bool) -> bool:
        """Return False."""
        return False

    def save(self, state: Resumable) -> None:
        """Save nothing."""


def copy_to_host(value: Any, previous: Any = None) -> Any:
    """Return a copy of nested dictionaries and lists whose tensors are in main memory and share no memory with others.

    Copies from a GPU go to pinned memory, which the GPU can write at full speed. This function waits for the copies.

    Args:
        value: The content to copy.
        previous: An earlier copy that is no longer needed. Its memory is used again, because new memory takes longer to
            provide than to fill.
    """
    devices: set[torch.device] = set()
    copied = _copied(value, previous, devices)
    for device in devices:
        torch.cuda.current_stream(device).synchronize()
    return copied


def _copied(value: Any, previous: Any, devices: set[torch.device]) -> Any:
    """Start the copies of `copy_to_host`, and add the GPUs that they read from to `devices`."""
    if isinstance(value, torch.Tensor):
        if value.is_cuda:
            devices.add(value.device)
        if not _fits(previous, value):
            previous = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda, requires_grad=False)
        return previous.copy_(value.detach(), non_blocking=value.is_cuda)
    if isinstance(value, Mapping):
        previous = previous if isinstance(previous, Mapping) else {}
        return {key: _copied(inner, previous.get(key), devices) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        previous = (
            previous if isinstance(previous, list | tuple) and len(previous) == len(value) else [None] * len(value)
        )
        return type(value)(_copied(inner, old, devices) for inner, old in zip(value, previous, strict=True))
    return value


def _fits(memory: Any, value: torch.Tensor) -> bool:
    """Return whether a tensor can hold a copy of `value` with the same strides."""
    return isinstance(memory, torch.Tensor) and (memory.shape, memory.dtype, memory.stride(), memory.is_pinned()) == (
        value.shape,
        value.dtype,
        torch.empty_like(value, device="meta").stride(),
        value.is_cuda,
    )


class _ChecksumWriter:
    """File writer that counts and checksums the bytes, and stores the error of a failed write."""

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
