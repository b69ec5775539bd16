"""Worker process for conversion. Reads tasks from standard input and writes results to standard output.

The process exits when its input ends, so it never outlives the conversion, even if the conversion is killed.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
import traceback
from enum import IntEnum
from typing import BinaryIO

import cv2

from mem.data.beton.encoding import EncodedImage, Encoding, ImageSource, check_decodes, encode, measure_sizes
from mem.data.codecs.decode import Unreadable


class TaskKind(IntEnum):
    """Task that a worker can perform."""

    CONFIGURE = 0
    """Set the `Encoding` and the qualities for `MEASURE`. Produces no result."""
    ENCODE = 1
    CHECK = 2
    """Check that the image can be decoded."""
    MEASURE = 3
    """Measure the size of the image, raw and at several JPEG qualities."""


class PayloadKind(IntEnum):
    """Meaning of a task's body: the path of an image file, or the content itself."""

    PATH = 0
    CONTENT = 1


class ResultKind(IntEnum):
    """Kind of message that a worker sends: the outcome of a task, or `READY`."""

    READY = 0
    """The worker has started."""
    ENCODED = 1
    CHECKED = 2
    MEASURED = 3
    UNREADABLE = 4
    """The file is not a complete image."""
    FILE_ERROR = 5
    """The file system returned an error."""
    EXCEPTION = 6
    """An unexpected exception. The result contains its traceback."""


TASK_HEADER = struct.Struct("<BBQI")
"""Header of a task: task kind, payload kind, image index, body size in bytes."""
RESULT_HEADER = struct.Struct("<BQBBIIQ")
"""Header of a result: kind, image index, storage mode, whether JPEG data were copied, height, width, body bytes."""

_NO_IMAGE = EncodedImage(0, 0, 0, b"", False)


def perform(
    task: TaskKind, source: ImageSource, encoding: Encoding, qualities: list[int]
) -> tuple[ResultKind, EncodedImage]:
    """Perform a task.

    Returns:
        The kind of result and, for `ENCODED`, the encoded image. For other kinds, the image's `content` is empty, the
        measurement as JSON, the reason for a failure, or a traceback.
    """
    try:
        if task == TaskKind.ENCODE:
            return ResultKind.ENCODED, encode(source, encoding)
        if task == TaskKind.CHECK:
            check_decodes(source, encoding)
            return ResultKind.CHECKED, _NO_IMAGE
        return _text_result(ResultKind.MEASURED, json.dumps(measure_sizes(source, encoding, qualities)))
    except Unreadable as error:
        return _text_result(ResultKind.UNREADABLE, str(error))
    except OSError as error:
        return _text_result(ResultKind.FILE_ERROR, f"cannot be read: {error.strerror or error}")
    except Exception:  # the conversion reports it with the image name
        return _text_result(ResultKind.EXCEPTION, traceback.format_exc())


def _text_result(kind: ResultKind, text: str) -> tuple[ResultKind, EncodedImage]:
    return kind, _NO_IMAGE._replace(content=text.encode(errors="replace"))


def main() -> None:
    """Perform tasks until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the conversion receives the signal too and handles it
    cv2.setNumThreads(1)
    tasks, results = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb", 0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # keep library output out of the results
    encoding, qualities = Encoding("raw", 90, None, "area"), []
    _write(results, RESULT_HEADER.pack(ResultKind.READY, 0, 0, 0, 0, 0, 0))
    while header := tasks.read(TASK_HEADER.size):
        task, payload, number, size = TASK_HEADER.unpack(header)
        body = tasks.read(size)
        if task == TaskKind.CONFIGURE:
            settings = json.loads(body)
            qualities = settings.pop("qualities")
            encoding = Encoding(**settings)
            continue
        source = os.fsdecode(body) if payload == PayloadKind.PATH else body
        kind, image = perform(TaskKind(task), source, encoding, qualities)
        size = len(image.content)
        _write(results, RESULT_HEADER.pack(kind, number, image.mode, image.copied, image.height, image.width, size))
        _write(results, image.content)


def _write(file: BinaryIO, content: bytes | bytearray | memoryview) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        os._exit(0)  # the conversion has ended
