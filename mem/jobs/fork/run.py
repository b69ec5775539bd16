"""The forked process: take over the state of the process that sent the request, and run its command."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence

from mem.jobs.fork.request import Request

_STOP_SECONDS = 20.0
"""Time in which a stage saves after its command was killed."""
_RESTORED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2, signal.SIGCONT)


def run_request(command: Callable[[Sequence[str]], int], request: Request, connection: socket.socket) -> int:
    """Run a command as its sender would have run it, and return the exit status."""
    _take_over(request)
    _limit_blas_threads()
    from mem.jobs import signals

    def announce(handled: bool) -> None:
        with contextlib.suppress(OSError):  # the command was killed
            connection.sendall(bytes([ord("S"), handled]))

    signals.announce_save_handler = announce
    threading.Thread(target=_relay_signals, args=(connection,), name="signals of the command", daemon=True).start()
    try:
        status = command(request.arguments)
    except SystemExit as error:  # argparse
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    # The process ends without the end of its interpreter. As in forked processes of `multiprocessing`, threads that are
    # not daemon threads end first, for example a thread that writes a checkpoint.
    threading._shutdown()  # type: ignore[attr-defined]
    _flush()
    return status


def _take_over(request: Request) -> None:
    """Set the standard streams, signals, environment and working folder."""
    for target, file in enumerate(request.files):
        os.dup2(file, target)
    request.close()
    # The existing streams cannot be used, because they remember properties of the server's files.
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(
            open(number, "wb", closefd=False),
            encoding=encoding,
            errors=errors,
            line_buffering=number == 2 or os.isatty(number),
            write_through=number == 2,
        )
        for number, (encoding, errors) in enumerate(request.streams, start=1)
    )
    for number in _RESTORED:
        signal.signal(number, signal.SIG_IGN if number in request.ignored else signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN if signal.SIGINT in request.ignored else signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request.environment)
    os.umask(request.umask)
    os.sched_setaffinity(0, request.cores)
    os.chdir(request.folder)
    sys.argv = ["mem", *request.arguments]


def _limit_blas_threads() -> None:
    """Give NumPy the threads of the environment, which NumPy reads only when it is imported.

    PyTorch's threads are set by each stage (`mem.jobs.threads`).
    """
    from threadpoolctl import threadpool_limits

    names = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")
    given = next((value for name in names if (value := os.environ.get(name, "")).isdigit() and int(value)), None)
    threadpool_limits(int(given) if given else len(os.sched_getaffinity(0)), user_api="blas")


def _relay_signals(connection: socket.socket) -> None:
    """Send the signals that the command receives to this process. If the command is killed, stop like an orphan."""
    while True:
        try:
            numbers = connection.recv(64)
        except OSError:
            numbers = b""
        if not numbers:
            break
        for number in numbers:
            os.kill(os.getpid(), number)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_STOP_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def _flush() -> None:
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # the reader of a pipe has ended
            pass
