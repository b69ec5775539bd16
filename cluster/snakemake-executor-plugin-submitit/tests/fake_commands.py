"""Fake SLURM commands on PATH, which print a text, fail with an error, or run a script."""

from __future__ import annotations

import os
from pathlib import Path


class FakeCommands:
    """A folder of fake commands. Each call is recorded with its arguments."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def path(self) -> str:
        """Return a value for PATH in which the fake commands come first."""
        return f"{self.folder}:{os.environ['PATH']}"

    def prints(self, name: str, text: str) -> None:
        """Let a command print a text."""
        output = self.folder / f"{name}.output"
        output.write_text(text)
        self.runs(name, f"cat {output}")

    def fails(self, name: str, error: str) -> None:
        """Let a command fail with an error message."""
        self.runs(name, f"echo {error!r} >&2; exit 1")

    def runs(self, name: str, script: str) -> None:
        """Let a command run a shell script."""
        path = self.folder / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {self.folder}/calls\n{script}\n')
        path.chmod(0o755)

    def calls(self, name: str = "") -> list[str]:
        """Return the calls so far, each with its arguments."""
        record = self.folder / "calls"
        lines = record.read_text().splitlines() if record.exists() else []
        return [line for line in lines if line.startswith(name)]
