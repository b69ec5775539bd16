"""A process that decodes and encodes images for a conversion: tasks come on its input, results go to its output.

It ends when its input does, so it never outlives the conversion, however that ends.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
import traceback
from typing import BinaryIO

import cv2

from mem.data.beton.encoding import Encoding, ImageSource, check_decodes, encode, measure
from mem.data.codecs.decode import Unreadable

SETTINGS, ENCODE, LOOK, MEASURE = range(4)
"""Tasks. `SETTINGS` holds those of an `Encoding`, and the qualities of `MEASURE`; it has no answer."""
PATH, CONTENT = range(2)
"""What a task holds."""
READY, ENCODED, LOOKED, MEASURED, UNREADABLE, NO_FILE, FAILED = range(7)
"""Answers. `FAILED`: something that nobody thought of; the answer holds the traceback."""
TASK = struct.Struct("<BBQI")
"""Task, what it holds, number of the image, bytes that follow."""
ANSWER = struct.Struct("<BQBBIIQ")
"""Answer, number of the image, mode, whether kept, height, width, bytes that follow."""

_Picture = tuple[int, bool, int, int]
_Content = bytes | bytearray | memoryview


def answer(task: int, source: ImageSource, encoding: Encoding, qualities: list[int]) -> tuple[int, _Picture, _Content]:
    """Do a task: the answer, mode, whether kept, height and width of an image, and what follows."""
    none = (0, False, 0, 0)
    try:
        if task == ENCODE:
            image = encode(source, encoding)
            return ENCODED, (image.mode, image.kept, image.height, image.width), image.content
        if task == LOOK:
            check_decodes(source, encoding)
            return LOOKED, none, b""
        return MEASURED, none, json.dumps(measure(source, encoding, qualities)).encode()
    except Unreadable as error:
        return UNREADABLE, none, str(error).encode(errors="replace")
    except OSError as error:
        return NO_FILE, none, f"cannot be read: {error.strerror or error}".encode()
    except Exception:  # the conversion must hear of it, with the image's name
        return FAILED, none, traceback.format_exc().encode(errors="replace")


def main() -> None:
    """Work until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the conversion hears it too, and decides
    cv2.setNumThreads(1)
    tasks, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb", 0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints must not look like an answer
    encoding, qualities = Encoding("raw", 90, None, "area"), []
    _write(answers, ANSWER.pack(READY, 0, 0, 0, 0, 0, 0))
    while head := tasks.read(TASK.size):
        task, holds, number, size = TASK.unpack(head)
        body = tasks.read(size)
        if task == SETTINGS:
            settings = json.loads(body)
            qualities = settings.pop("qualities")
            encoding = Encoding(**settings)
            continue
        source = os.fsdecode(body) if holds == PATH else body
        kind, picture, content = answer(task, source, encoding, qualities)
        _write(answers, ANSWER.pack(kind, number, *picture, len(content)))
        _write(answers, content)


def _write(file: BinaryIO, content: _Content) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        os._exit(0)  # the conversion is gone
