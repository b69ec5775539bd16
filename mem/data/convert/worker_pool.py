"""The processes of a conversion. One that dies is noticed at once, and the image that it worked on is known.

Python's pools know neither: `multiprocessing.Pool` waits for ever, `ProcessPoolExecutor` cannot say which item it was.
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

import numpy as np

from mem.data.beton.encoding import Encoding, ImageSource
from mem.data.convert import worker_process

_QUEUED = 8
"""Tasks that a worker has at hand. Paths only: so many fit into a pipe, and sending never waits."""
_WINDOW = 64
"""Images per worker that may be asked for and not yet handed on, as their turn has not come."""
_HELD_BYTES = 512 << 20
"""Of answers whose turn has not come; no new image is asked for beyond."""
_PIPE_BYTES = 1 << 20


class Task(NamedTuple):
    """Something to do with an image."""

    kind: int
    """One of `mem.data.convert.worker_process`'s tasks."""
    number: int
    source: ImageSource


class TaskResult(NamedTuple):
    """What became of a task."""

    kind: int
    """One of `mem.data.convert.worker_process`'s answers."""
    number: int
    mode: int
    kept: bool
    height: int
    width: int
    content: bytes | bytearray | memoryview
    """The image, a measurement as JSON, or a reason."""


class WorkerLost(Exception):
    """A worker ended, or raised what it should not.

    Attributes:
        number: The image it worked on; None where it did not get so far.
        details: More than a line, for the log.
    """

    def __init__(self, number: int | None, said: str, details: str = "") -> None:
        super().__init__(said)
        self.number = number
        self.details = details


@runtime_checkable
class Pool(Protocol):
    """Whoever does tasks."""

    def settle(self, encoding: Encoding, qualities: Sequence[int] = ()) -> None:
        """How images are to be encoded from now on, and in which qualities measured."""
        ...

    def answers(self, tasks: Iterable[Task]) -> Iterator[TaskResult]:
        """Answers in the order of the tasks, which are taken as they are needed.

        Raises:
            Lost: A worker is gone.
        """
        ...


class InProcess:
    """This process alone: for pixels that are in its memory, and where processes would take longer to start."""

    def settle(self, encoding: Encoding, qualities: Sequence[int] = ()) -> None:
        """See `Crew`."""
        self._encoding, self._qualities = encoding, list(qualities)

    def answers(self, tasks: Iterable[Task]) -> Iterator[TaskResult]:
        """See `Crew`."""
        for task in tasks:
            kind, picture, content = worker_process.answer(task.kind, task.source, self._encoding, self._qualities)
            yield _checked(TaskResult(kind, task.number, picture[0], picture[1], picture[2], picture[3], content))


class WorkerPool:
    """Processes of `mem.data.convert.worker_process`, from entering to leaving the context."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._workers: list[_Worker] = []

    def __enter__(self) -> WorkerPool:
        try:
            for _ in range(self._count):
                self._workers.append(_Worker())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        for one in self._workers:
            one.process.kill()
        for one in self._workers:
            one.close()

    def settle(self, encoding: Encoding, qualities: Sequence[int] = ()) -> None:
        """See `Crew`."""
        settings = json.dumps({**dataclasses.asdict(encoding), "qualities": list(qualities)}).encode()
        for one in self._workers:
            one.send(worker_process.SETTINGS, worker_process.CONTENT, 0, settings)

    def answers(self, tasks: Iterable[Task]) -> Iterator[TaskResult]:
        """See `Crew`."""
        coming = iter(tasks)
        asked: deque[int] = deque()
        arrived: dict[int, TaskResult] = {}
        held, more = 0, True
        with selectors.DefaultSelector() as selector:
            for one in self._workers:
                selector.register(one.output, selectors.EVENT_READ, one)
            while more or asked:
                while more and len(asked) < _WINDOW * self._count and held < _HELD_BYTES:
                    idlest = min(self._workers, key=lambda one: len(one.tasks))
                    if not idlest.has_room():
                        break
                    task = next(coming, None)
                    if task is None:
                        more = False
                        break
                    asked.append(task.number)
                    idlest.give(task)
                if not asked:
                    return
                for key, _ in selector.select():
                    answer = key.data.receive()
                    if answer is not None:
                        arrived[answer.number] = _checked(answer)
                        held += len(answer.content)
                while asked and asked[0] in arrived:
                    answer = arrived.pop(asked.popleft())
                    held -= len(answer.content)
                    yield answer


class _Worker:
    """One process and what it was given."""

    def __init__(self) -> None:
        root = str(Path(__file__).parents[2])
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
        with contextlib.suppress(OSError):  # a smaller pipe is slower, no more
            fcntl.fcntl(self.output, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self.tasks: deque[int] = deque()
        self._ready = self._holds_content = False

    def has_room(self) -> bool:
        """Whether a task can be sent without waiting for the worker, which may be waiting to send its answer."""
        return len(self.tasks) < (1 if self._holds_content else _QUEUED)

    def give(self, task: Task) -> None:
        """Send a task."""
        assert not isinstance(task.source, np.ndarray), "pixels stay in the process that has them"
        self._holds_content = isinstance(task.source, bytes)
        self.tasks.append(task.number)
        if isinstance(task.source, bytes):
            self.send(task.kind, worker_process.CONTENT, task.number, task.source)
        else:
            self.send(task.kind, worker_process.PATH, task.number, os.fsencode(task.source))

    def send(self, kind: int, holds: int, number: int, body: bytes) -> None:
        """Write a task; a worker that is gone is noticed when its answer is read."""
        rest = memoryview(worker_process.TASK.pack(kind, holds, number, len(body)) + body)
        with contextlib.suppress(BrokenPipeError):
            while rest:
                rest = rest[self._input.write(rest) :]

    def receive(self) -> TaskResult | None:
        """Read an answer; None where the worker says that it is ready.

        Raises:
            Lost: The worker is gone.
        """
        head = self._read(worker_process.ANSWER.size)
        kind, number, mode, kept, height, width, size = worker_process.ANSWER.unpack(head)
        if kind == worker_process.READY:
            self._ready = True
            return None
        content = self._read(size)
        self.tasks.popleft()
        return TaskResult(kind, number, mode, bool(kept), height, width, content)

    def close(self) -> None:
        """Let go of the process, which has ended or is about to."""
        self.process.wait()
        self._input.close()
        self.output.close()

    def _read(self, size: int) -> bytearray:
        content = bytearray(size)
        rest = memoryview(content)
        while rest:
            count = self.output.readinto(rest)  # type: ignore[attr-defined]  # a raw file, as bufsize is 0
            if not count:
                raise self._lost()
            rest = rest[count:]
        return content

    def _lost(self) -> WorkerLost:
        status = self.process.wait()
        number = self.tasks[0] if self.tasks and self._ready else None
        if status >= 0:
            return WorkerLost(number, f"the worker process ended with status {status}; what it said stands above")
        name = signal.Signals(-status).name
        reason = " (as the kernel does when memory runs out)" if name == "SIGKILL" else ""
        return WorkerLost(number, f"the worker process was ended by {name}{reason}")


def _checked(answer: TaskResult) -> TaskResult:
    """The answer, unless it tells of what nobody thought of."""
    if answer.kind == worker_process.FAILED:
        trace = bytes(answer.content).decode()
        raise WorkerLost(answer.number, f"its worker raised {trace.strip().splitlines()[-1]}", trace)
    return answer
