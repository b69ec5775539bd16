"""Signal handlers of a stage, during and outside the training loop."""

from __future__ import annotations

import io
import logging
import os
import signal
import time

import pytest

from mem.errors import Stopped
from mem.jobs.signals import SAVED_VARIABLE, StopSignals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_outside_a_training_a_stop_is_raised_at_once(number):
    with StopSignals() as stop, pytest.raises(Stopped, match="Stopped on request"):
        os.kill(os.getpid(), number)
        time.sleep(5)
    assert stop.reason == number.name


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_during_a_message_is_not_lost(number):
    class StreamOfAnInterruptedWrite(io.StringIO):
        def write(self, text: str) -> int:
            os.kill(os.getpid(), number)
            return super().write(text)

    handler = logging.StreamHandler(StreamOfAnInterruptedWrite())
    logger = logging.Logger("test of signals")
    logger.addHandler(handler)
    with StopSignals(), pytest.raises(Stopped):
        logger.warning("Rank 0 waits")


def test_during_a_training_a_stop_is_only_recorded():
    with StopSignals() as stop, stop.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        assert stop.reason == "SIGTERM"


def test_a_stop_no_longer_interrupts_a_run_whose_results_are_complete():
    with StopSignals() as stop:
        stop.hold()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested


def test_a_second_interrupt_raises_keyboard_interrupt():
    with StopSignals() as stop, stop.deferred():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_during_a_training_sigusr2_requests_one_checkpoint():
    with StopSignals() as stop, stop.deferred():
        os.kill(os.getpid(), signal.SIGUSR2)
        assert (stop.take_save(), stop.take_save()) == (True, False)
        assert not stop.requested


def test_outside_a_training_sigusr2_is_ignored():
    with StopSignals() as stop:
        assert signal.getsignal(signal.SIGUSR2) is signal.SIG_IGN
        os.kill(os.getpid(), signal.SIGUSR2)
        with stop.deferred():
            assert not stop.take_save()
        assert signal.getsignal(signal.SIGUSR2) is signal.SIG_IGN


def test_a_saved_checkpoint_is_acknowledged_with_a_file(tmp_path, monkeypatch):
    monkeypatch.delenv(SAVED_VARIABLE, raising=False)
    StopSignals().saved()
    monkeypatch.setenv(SAVED_VARIABLE, str(tmp_path / "saved"))
    StopSignals().saved()
    assert (tmp_path / "saved").exists()


def test_previous_handlers_are_restored():
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
    before = [signal.getsignal(number) for number in numbers]
    with StopSignals():
        pass
    assert [signal.getsignal(number) for number in numbers] == before
