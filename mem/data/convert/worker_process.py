"""Worker process of a conversion: reads tasks from its standard input and writes results to its standard output.

The process exits when its input ends, so it never outlives the conversion, however that ends.
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
    """What to do with an image."""

    CONFIGURE = 0
    """Set the `Encoding` and the qualities of `MEASURE`. Has no result."""
    ENCODE = 1
    CHECK = 2
    """Check that the image decodes."""
    MEASURE = 3
    """Measure its size, raw and in several JPEG qualities."""


class PayloadKind(IntEnum):
    """What the body of a task contains."""

    PATH = 0
    CONTENT = 1


class ResultKind(IntEnum):
    """Outcome of a task."""

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
"""Task kind, payload kind, number of the image, size of the body in bytes."""
RESULT_HEADER = struct.Struct("<BQBBIIQ")
"""Result kind, number of the image, storage mode, whether JPEG data were copied, height, width, size of the body."""

_NO_IMAGE = EncodedImage(0, 0, 0, b"", False)


def perform(
    task: TaskKind, source: ImageSource, encoding: Encoding, qualities: list[int]
) -> tuple[ResultKind, EncodedImage]:
    """Perform a task.

    Returns:
        The kind of result, and the encoded image. For other kinds, the content of the image is the measurement as JSON,
        or the reason of a failure as text.
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
    except Exception:  # the conversion reports it with the name of the image
        return _text_result(ResultKind.EXCEPTION, traceback.format_exc())


def _text_result(kind: ResultKind, text: str) -> tuple[ResultKind, EncodedImage]:
    return kind, _NO_IMAGE._replace(content=text.encode(errors="replace"))


def main() -> None:
    """Perform tasks until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the conversion receives it too, and decides
    cv2.setNumThreads(1)
    tasks, results = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb", 0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # keep the output of libraries out of the results
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
