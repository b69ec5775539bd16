"""Bounded prefetching in a background thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

_DEPTH = 3
"""Default number of prefetched items."""

Item = TypeVar("Item")


def prefetch(create: Callable[[], Iterator[Item]], depth: int = _DEPTH) -> Iterator[Item]:
    """Yield the items of an iterator while a background thread prefetches up to `depth` items.

    The thread calls `create` and iterates over the result. Exceptions in the thread are re-raised in the consumer.
    Closing this generator early stops the thread.
    """
    items: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(entry: tuple[Item | None, BaseException | None]) -> bool:
        while not stopped.is_set():
            try:
                items.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def produce() -> None:
        try:
            for item in create():
                if not put((item, None)):
                    return
            put((None, StopIteration()))
        except BaseException as error:  # The consumer re-raises it.
            put((None, error))

    thread = threading.Thread(target=produce, name="loader", daemon=True)
    thread.start()
    try:
        while True:
            item, error = items.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()
