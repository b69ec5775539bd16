"""Progress display on a terminal and in a log."""

from __future__ import annotations

import io
import time

from mem.progress import Progress, format_duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_occasional_lines_with_rate_and_remaining_time(monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    stream = io.StringIO()
    with Progress("pretrain", 10_000, start=1_000, stream=stream) as progress:
        for _ in range(60):
            now += 1.0
            progress.advance(100, "loss 0.5")
    lines = stream.getvalue().splitlines()
    assert lines == [
        "pretrain: 30 % · 3,000 of 10,000 img · 100 img/s · 1:10 left · loss 0.5",
        "pretrain: 50 % · 5,000 of 10,000 img · 100 img/s · 0:50 left · loss 0.5",
        "pretrain: 70 % · 7,000 of 10,000 img · 100 img/s · 0:30 left · loss 0.5",
    ]


def test_a_terminal_gets_a_bar_with_rate_and_remaining_time():
    stream = Terminal()
    with Progress("pretrain", 100, stream=stream) as progress:
        progress.advance(40)
        time.sleep(0.15)
        progress.advance(20)
    shown = stream.getvalue()
    assert "pretrain" in shown
    assert "img/s" in shown
    assert "60.0/100" in shown


def test_other_ranks_show_nothing():
    stream = Terminal()
    with Progress("pretrain", 100, quiet=True, stream=stream) as progress:
        progress.advance(100)
    assert stream.getvalue() == ""


def test_durations_are_written_in_hours_minutes_and_seconds():
    assert [format_duration(s) for s in (7, 65, 3600 + 125)] == ["0:07", "1:05", "1:02:05"]
