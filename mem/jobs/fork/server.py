"""The fork server: import PyTorch and the code of heads once, and fork one process per run.

The import takes two seconds, and most heads train in less. `mem train_head` and `mem evaluate` remain the commands of
these stages: if `MEM_FORK_SERVER` contains the address of a server, they send their working folder, arguments,
environment and standard streams to it (see `mem.jobs.fork.client`). The forked process runs the command as usual. A run
that crashes does not affect other runs, because each run has its own process.

The modules are imported when the first request arrives. The server never computes anything: threads of PyTorch and a
CUDA context would not survive the fork.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence

from mem.jobs.fork.client import peer_user
from mem.jobs.fork.request import Request, code_state, load_time_variables, receive_request
from mem.jobs.fork.run import run_request

Command = Callable[[Sequence[str]], int]
"""Function that runs a `mem` command and returns its exit status."""


class Server:
    """Accepts requests and forks a process for each.

    Args:
        listener: Listening Unix socket.
        import_command: Imports the modules of the stages, and returns the function that runs a command.
    """

    def __init__(self, listener: socket.socket, import_command: Callable[[], Command]) -> None:
        self._listener = listener
        self._import_command = import_command
        self._command: Command | None = None
        self._code = code_state()
        self._variables: Mapping[str, str] = {}
        """Environment variables that Python and the libraries have read when they were imported."""
        self._runs: dict[int, socket.socket] = {}
        """Connection of each running process, by process id."""
        self._wakeup = socket.socketpair()

    def serve(self) -> None:
        """Serve until standard input is closed. Runs that have not ended continue, and watch the workflow process."""
        for end in self._wakeup:
            end.setblocking(False)
        signal.set_wakeup_fd(self._wakeup[1].fileno())
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)  # these are for the runs; the owner closes standard input
        while True:
            ready, _, _ = select.select([self._listener, self._wakeup[0], sys.stdin], [], [])
            if self._wakeup[0] in ready:
                with contextlib.suppress(BlockingIOError):
                    self._wakeup[0].recv(4096)
                self._report_ended()
            if self._listener in ready:
                connection, _ = self._listener.accept()
                self._answer(connection)
            elif sys.stdin in ready:
                signal.set_wakeup_fd(-1)
                return

    def _answer(self, connection: socket.socket) -> None:
        """Fork a process for the request on a connection."""
        try:
            if peer_user(connection) != os.getuid():
                raise ValueError("the request is from another user")
            request = receive_request(connection)
        except (OSError, ValueError) as error:
            print(f"A request was declined: {error}", file=sys.stderr, flush=True)
            connection.close()
            return
        if self._command is None:
            self._import(request)
        with contextlib.closing(request):
            try:
                child = os.fork()
            except OSError as error:  # for example, the limit of processes is reached; the command runs by itself
                print(f"A request was declined: {error}", file=sys.stderr, flush=True)
                connection.close()
                return
            if child == 0:
                self._run(connection, request)
        self._runs[child] = connection

    def _import(self, request: Request) -> None:
        """Import the modules of the stages in the environment of the first request."""
        os.environ.clear()
        os.environ.update({**request.environment, "OPENBLAS_NUM_THREADS": "1"})  # no threads before a fork
        self._variables = load_time_variables(request.environment)
        self._command = self._import_command()
        gc.collect()
        gc.freeze()  # memory that the garbage collector does not write to remains shared

    def _run(self, connection: socket.socket, request: Request) -> None:
        """Run the request in the forked process, and end the process."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for other in (self._listener, *self._wakeup, *self._runs.values()):
                other.close()
            assert self._command is not None
            reason = request.difference(self._variables) or (
                "the code has changed" if code_state() != self._code else ""
            )
            if reason:
                print(f"A request was declined: {reason}.", file=sys.stderr, flush=True)
                connection.sendall(b"D\0")
            else:
                print(f"Process {os.getpid()}: mem {' '.join(request.arguments)}", file=sys.stderr, flush=True)
                connection.sendall(b"A\0")
                status = run_request(self._command, request, connection)
                connection.sendall(bytes([ord("X"), status & 255]))
        except BrokenPipeError:
            pass  # the client was killed
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)  # the interpreter of the server must not continue in this process

    def _report_ended(self) -> None:
        """Collect processes that have ended, and report to the client if a signal killed its process."""
        while self._runs:
            try:
                child, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if child == 0:
                return
            with self._runs.pop(child) as connection:
                if os.WIFSIGNALED(status):
                    with contextlib.suppress(OSError):
                        connection.sendall(bytes([ord("K"), os.WTERMSIG(status)]))
