"""Prefetching in a background thread: order, exceptions, early closing, and depth."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from mem.data.loading.prefetch import prefetch


def wait_until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_an_exception_of_the_iterator_is_raised_in_the_consumer():
    def items():
        yield 1
        raise ValueError("the second item is damaged")

    prefetched = prefetch(items)
    assert next(prefetched) == 1
    with pytest.raises(ValueError, match="the second item is damaged"):
        next(prefetched)


def test_closing_early_stops_the_thread():
    threads = threading.active_count()
    items = prefetch(lambda: iter(range(10**9)))
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    items.close()
    assert wait_until(lambda: threading.active_count() == threads)


def test_items_are_produced_before_they_are_requested_but_no_more_than_the_depth():
    produced: list[int] = []

    def items():
        for i in range(10):
            produced.append(i)
            yield i

    prefetched = prefetch(items, depth=3)
    next(prefetched)
    # One item was consumed, three are in the queue, and the thread waits to add another one.
    assert wait_until(lambda: len(produced) == 5)
    time.sleep(0.1)
    assert len(produced) == 5
    prefetched.close()
