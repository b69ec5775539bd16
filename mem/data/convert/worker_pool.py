"""Worker processes for conversion. If a worker exits, the pool immediately raises an error that specifies the image.

Python's pools do not support this: if a worker exits, `multiprocessing.Pool` waits forever, and `ProcessPoolExecutor`
does not report which item the worker was processing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import selectors
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol, runtime_checkable

from mem.data.beton.encoding import EncodedImage, Encoding, ImageSource
from mem.data.convert.worker_process import RESULT_HEADER, TASK_HEADER, PayloadKind, ResultKind, TaskKind, perform

_QUEUED_PER_WORKER = 8
"""Maximum number of queued tasks per worker. Tasks contain paths, and this number of paths fits into a pipe, so that
sending never blocks."""
_WINDOW_PER_WORKER = 64
"""Maximum number of images per worker that are in progress or waiting for an earlier image."""
_MAX_HELD_BYTES = 512 << 20
"""Maximum total size of results that wait for an earlier one. Above this size, no new images are requested."""
_PIPE_BYTES = 1 << 20


class Task(NamedTuple):
    """A task for one image."""

    kind: TaskKind
    number: int
    source: ImageSource


class TaskResult(NamedTuple):
    """Result of a task."""

    kind: ResultKind
    number: int
    image: EncodedImage

    @property
    def text(self) -> str:
        """Measurement as JSON, reason for a failure, or traceback of an unexpected exception."""
        return bytes(self.image.content).decode()


class WorkerLost(Exception):
    """A worker exited or raised an unexpected exception.

    Attributes:
        number: Index of the image that the worker was processing; None if it had not started one.
        details: Additional lines for the log.
    """

    def __init__(self, number: int | None, message: str, details: str = "") -> None:
        super().__init__(message)
        self.number = number
        self.details = details


@runtime_checkable
class Pool(Protocol):
    """Pool of workers that perform tasks on images."""

    def configure(self, encoding: Encoding, qualities: Sequence[int] = ()) -> None:
        """Set the encoding and the JPEG qualities to measure for subsequent tasks."""
        ...

    def results(self, tasks: Iterable[Task]) -> Iterator[TaskResult]:
        """Yield results in the order of the tasks. Tasks are consumed lazily.

        Raises:
            WorkerLost: A worker exited or raised an unexpected exception.
        """
        ...


class InProcess:
    """In-process pool, for pixels that are in memory and for datasets too small to justify starting processes."""

    def configure(self, encoding: Encoding, qualities: Sequence[int] = ()) -> None:
        """See `Pool`."""
        self._encoding, self._qualities = encoding, list(qualities)

    def results(self, tasks: Iterable[Task]) -> Iterator[TaskResult]:
        """See `Pool`."""
        for task in tasks:
            kind, image = perform(task.kind, task.source, self._encoding, self._qualities)
            yield _checked(TaskResult(kind, task.number, image))


class WorkerPool:
    """Pool of processes that run `mem.data.convert.worker_process`. They run until the `with` block ends.

    Args:
        count: Number of processes.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._workers: list[_Worker] = []

    def __enter__(self) -> WorkerPool:
        try:
            for _ in range(self._count):
                self._workers.append(_Worker())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.close()

    def configure(self, encoding: Encoding, qualities: Sequence[int] = ()) -> None:
        """See `Pool`."""
        settings = json.dumps({**dataclasses.asdict(encoding), "qualities": list(qualities)}).encode()
        for worker in self._workers:
            worker.send(TaskKind.CONFIGURE, PayloadKind.CONTENT, 0, settings)

    def results(self, tasks: Iterable[Task]) -> Iterator[TaskResult]:
        """See `Pool`."""
        remaining = iter(tasks)
        requested: deque[int] = deque()
        received: dict[int, TaskResult] = {}
        held_bytes, more = 0, True
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                selector.register(worker.output, selectors.EVENT_READ, worker)
            while more or requested:
                while more and len(requested) < _WINDOW_PER_WORKER * self._count and held_bytes < _MAX_HELD_BYTES:
                    least_busy = min(self._workers, key=lambda worker: len(worker.queue))
                    if not least_busy.can_accept():
                        break
                    task = next(remaining, None)
                    if task is None:
                        more = False
                        break
                    requested.append(task.number)
                    least_busy.submit(task)
                if not requested:
                    return
                for key, _ in selector.select():
                    result = key.data.receive()
                    if result is not None:
                        received[result.number] = _checked(result)
                        held_bytes += len(result.image.content)
                while requested and requested[0] in received:
                    result = received.pop(requested.popleft())
                    held_bytes -= len(result.image.content)
                    yield result


class _Worker:
    """A worker process and its task queue."""

    def __init__(self) -> None:
        root = str(Path(__file__).parents[3])
        path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), root]))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mem.data.convert.worker_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self._input, self.output = self.process.stdin, self.process.stdout
        with contextlib.suppress(OSError):  # a smaller pipe works too, but is slower
            fcntl.fcntl(self.output, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self.queue: deque[int] = deque()
        self._ready = self._last_task_has_content = False

    def can_accept(self) -> bool:
        """Return whether a task can be sent without blocking. Blocking could cause a deadlock."""
        return len(self.queue) < (1 if self._last_task_has_content else _QUEUED_PER_WORKER)

    def submit(self, task: Task) -> None:
        """Send a task."""
        assert isinstance(task.source, str | bytes), "pixels in memory are encoded in this process"
        self._last_task_has_content = isinstance(task.source, bytes)
        self.queue.append(task.number)
        if isinstance(task.source, bytes):
            self.send(task.kind, PayloadKind.CONTENT, task.number, task.source)
        else:
            self.send(task.kind, PayloadKind.PATH, task.number, os.fsencode(task.source))

    def send(self, kind: TaskKind, payload: PayloadKind, number: int, body: bytes) -> None:
        """Write a task to the worker's input. If the worker has exited, `receive` raises the error."""
        rest = memoryview(TASK_HEADER.pack(kind, payload, number, len(body)) + body)
        with contextlib.suppress(BrokenPipeError):
            while rest:
                rest = rest[self._input.write(rest) :]

    def receive(self) -> TaskResult | None:
        """Read a result. Return None if the message only reports that the worker is ready.

        Raises:
            WorkerLost: The worker exited.
        """
        header = RESULT_HEADER.unpack(self._read(RESULT_HEADER.size))
        kind, number, mode, copied, height, width, size = header
        if kind == ResultKind.READY:
            self._ready = True
            return None
        content = self._read(size)
        self.queue.popleft()
        return TaskResult(ResultKind(kind), number, EncodedImage(mode, height, width, content, bool(copied)))

    def close(self) -> None:
        """Wait for the process to exit and close its pipes."""
        self.process.wait()
        self._input.close()
        self.output.close()

    def _read(self, size: int) -> bytearray:
        content = bytearray(size)
        rest = memoryview(content)
        while rest:
            count = self.output.readinto(rest)  # type: ignore[attr-defined]  # a raw file, because bufsize is 0
            if not count:
                raise self._lost()
            rest = rest[count:]
        return content

    def _lost(self) -> WorkerLost:
        status = self.process.wait()
        number = self.queue[0] if self.queue and self._ready else None
        if status >= 0:
            return WorkerLost(number, f"the worker process exited with status {status}; see its output above")
        name = signal.Signals(-status).name
        reason = " (possibly by the kernel because memory ran out)" if name == "SIGKILL" else ""
        return WorkerLost(number, f"the worker process was killed by {name}{reason}")


def _checked(result: TaskResult) -> TaskResult:
    """Return the result, or raise `WorkerLost` if it reports an unexpected exception."""
    if result.kind == ResultKind.EXCEPTION:
        trace = result.text
        raise WorkerLost(result.number, f"the worker raised {trace.strip().splitlines()[-1]}", trace)
    return result
