"""Names and texts from files cannot control the terminal."""

from __future__ import annotations

import io
import logging
import os
import sys

import pytest

from mem.cli import main as entry
from mem.cli.terminal import PrintableStream, protect_terminal
from mem.errors import UserError, printable
from mem.jobs.messages import message_handlers

HARMFUL = {
    "clear the screen": ("\x1b[2J", r"\x1b[2J"),
    "change the title": ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
    "an escape sequence of one character": ("\x9b31m", r"\x9b31m"),
    "return to the start of the line": ("a\rb", r"a\x0db"),
    "a backspace": ("a\bb", r"a\x08b"),
    "reverse the text": ("\u202egpj.exe", r"\u202egpj.exe"),
    "a name that is not UTF-8": (os.fsdecode(b"caf\xe9"), r"caf\xe9"),
    "half a character": ("\ud83d", r"\ud83d"),
}


@pytest.mark.parametrize("kind", HARMFUL)
def test_control_characters_are_escaped(kind):
    text, expected = HARMFUL[kind]
    assert printable(text) == expected
    assert str(UserError(f"{text}: no such file")) == f"{expected}: no such file"
    expected.encode()


def test_other_text_is_not_changed():
    text = "Ünïcode τ × 日本語 🙂\n\tindented"
    assert printable(text) == text
    assert printable(printable("\x1b")) == printable("\x1b")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("kind", HARMFUL)
def test_the_output_of_every_command_is_escaped_on_a_terminal(monkeypatch, kind):
    text, expected = HARMFUL[kind]
    for name in ("stdout", "stderr"):
        stream = Terminal()
        monkeypatch.setattr(sys, name, stream)
        protect_terminal()
        protect_terminal()
        print(text, file=getattr(sys, name))
        getattr(sys, name).writelines([text])
        kept = expected.replace(r"\x0d", "\r")  # progress bars use carriage returns
        assert stream.getvalue() == f"{kept}\n{kept}"
        assert getattr(sys, name).isatty()


def test_files_and_pipes_receive_the_unchanged_text(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    protect_terminal()
    print("\x1b")
    assert stream.getvalue() == "\x1b\n"


def test_the_command_protects_the_terminal(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    with pytest.raises(SystemExit):
        entry.main(["--version"])
    assert isinstance(sys.stdout, PrintableStream)
    assert stream.getvalue().startswith("mem ")


def test_messages_and_log_files_of_a_stage_contain_no_control_characters(tmp_path, capsys):
    logger = logging.Logger("test")
    with message_handlers(logger, tmp_path / "log.txt", 0):
        logger.info("class %s", "\x1b[2Jcat")
        try:
            raise ValueError("\x1b[2Jdog")
        except ValueError:
            logger.exception("failed")
    for text in (capsys.readouterr().err, (tmp_path / "log.txt").read_text()):
        assert "\x1b" not in text
        assert r"class \x1b[2Jcat" in text
        assert r"ValueError: \x1b[2Jdog" in text
