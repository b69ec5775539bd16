"""The entry point of a rank: signals that arrive before the job's command starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from submitit.core import submission
from submitit.core.job_environment import JobEnvironment

from snakemake_executor_plugin_submitit import processes, start

NUMBERS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT, signal.SIGCONT)


@pytest.fixture
def flags(monkeypatch):
    """The flags of this process. Its signal handlers are restored after the test."""
    previous = {number: signal.getsignal(number) for number in NUMBERS}
    made = processes.SignalFlags()
    monkeypatch.setattr(processes, "SIGNALS", made)
    monkeypatch.setattr(JobEnvironment, "_handle_signals", JobEnvironment._handle_signals)
    yield made
    for number, handler in previous.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_signal_while_submitit_loads_the_job_is_remembered(flags, monkeypatch, number):
    def load() -> None:
        JobEnvironment._handle_signals(None, None, None)  # type: ignore[arg-type]
        os.kill(os.getpid(), number)

    monkeypatch.setattr(submission, "submitit_main", load)
    start.main()
    assert flags.save_requested is (number == signal.SIGUSR2)
    assert flags.stop_requested is (number == signal.SIGTERM)


@pytest.mark.stage
@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_signal_while_python_ends_does_not_end_the_rank(number):
    program = f"""
import os
from submitit.core import submission
from snakemake_executor_plugin_submitit import start

class AtTheEnd:
    def __del__(self):  # the module is cleared after Python has restored the handlers
        os.kill(os.getpid(), {int(number)})

submission.submitit_main = lambda: None
start.main()
start.last = AtTheEnd()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.stage
def test_signals_before_the_handlers_are_installed_do_not_end_the_rank():
    """The command in the job script ignores them; Python keeps ignoring them until it installs its handlers."""
    from snakemake_executor_plugin_submitit.slurm import _IGNORING_SIGNALS

    program = "import os, signal; os.kill(os.getpid(), signal.SIGUSR2); os.kill(os.getpid(), signal.SIGTERM); print(1)"
    command = f"{_IGNORING_SIGNALS} {sys.executable} -c '{program}'"
    assert subprocess.run(command, shell=True, capture_output=True, text=True, check=True).stdout == "1\n"
