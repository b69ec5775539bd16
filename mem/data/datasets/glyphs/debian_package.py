"""Extraction of font files from a Debian package (`.deb`), without dpkg and without root.

A package is an `ar` archive with the members `debian-binary`, `control.tar.*` and `data.tar.*` (see `man 5 deb`). Only
the fonts of the last member are written.
"""

from __future__ import annotations

import io
import lzma
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from mem.errors import UserError
from mem.progress import Progress
from mem.runs.font_files import SUFFIXES

_MAGIC = b"!<arch>\n"
_HEADER_BYTES = 60
_MODES = {".xz": "r|xz", ".gz": "r|gz", ".bz2": "r|bz2", ".tar": "r|"}
"""Modes of `tarfile` for the compressions that Python reads, by suffix."""
_BLOCK_BYTES = 1 << 20


def unpack_fonts(package: Path, folder: Path) -> int:
    """Write the fonts of a Debian package to a folder.

    The paths below the last folder named `fonts` are kept: `usr/share/texlive/texmf-dist/fonts/opentype/x/y.otf`
    becomes `opentype/x/y.otf`.

    Returns:
        The number of fonts.

    Raises:
        UserError: The file is not a complete Debian package, or contains no fonts.
    """
    fonts = 0
    try:
        with _data_archive(package) as archive:
            for member in archive:
                target = _target(member)
                content = archive.extractfile(member) if target is not None else None
                if target is None or content is None:
                    continue
                path = folder / target
                path.parent.mkdir(parents=True, exist_ok=True)
                with open(path, "wb") as file:
                    shutil.copyfileobj(content, file, _BLOCK_BYTES)
                fonts += 1
    except (tarfile.TarError, lzma.LZMAError, EOFError, zlib.error) as error:
        raise UserError(f"{package}: damaged or incomplete Debian package: {error}. Download it again.") from None
    if not fonts:
        raise UserError(f"{package}: the package contains no .otf and .ttf files. Use a package with fonts.")
    return fonts


def _target(member: tarfile.TarInfo) -> PurePosixPath | None:
    """Return the relative path under which a member is stored; None if it is not a font file."""
    parts = PurePosixPath(member.name).parts
    if not member.isfile() or not member.name.lower().endswith(SUFFIXES) or ".." in parts:
        return None
    folders = [i for i, part in enumerate(parts[:-1]) if part == "fonts"]
    return PurePosixPath(*parts[folders[-1] + 1 :]) if folders else PurePosixPath(parts[-1])


@contextmanager
def _data_archive(package: Path) -> Iterator[tarfile.TarFile]:
    """Open the `data.tar.*` member of a package as a stream."""
    with open(package, "rb") as file:
        name, size = _find_data(package, file)
        with Progress("unpack", size, unit="B") as progress:
            if (mode := _MODES.get(PurePosixPath(name).suffix)) is not None:
                with tarfile.open(fileobj=_Member(file, size, progress), mode=mode) as archive:  # type: ignore[call-overload]
                    yield archive
            else:
                with _unpacked_by_dpkg(package, name) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
                    yield archive


def _find_data(package: Path, file: BinaryIO) -> tuple[str, int]:
    """Move to the content of the member `data.tar.*`, and return its name and size."""
    if file.read(len(_MAGIC)) != _MAGIC:
        raise UserError(f"{package}: not a Debian package (an `ar` archive). Download it again.")
    while len(header := file.read(_HEADER_BYTES)) == _HEADER_BYTES:
        name = header[:16].decode("ascii", "replace").strip().rstrip("/")
        try:
            size = int(header[48:58])
        except ValueError:
            break
        if name.startswith("data.tar"):
            return name, size
        file.seek(size + size % 2, io.SEEK_CUR)  # members start at even positions
    raise UserError(f"{package}: damaged or incomplete Debian package: it has no member data.tar. Download it again.")


@contextmanager
def _unpacked_by_dpkg(package: Path, name: str) -> Iterator[IO[bytes]]:
    """Decompress the member with dpkg-deb, which reads more compressions than Python, such as zstd."""
    program = shutil.which("dpkg-deb")
    if program is None:
        raise UserError(f"{package}: its member {name} requires dpkg-deb, which was not found. Install dpkg.")
    with subprocess.Popen([program, "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield process.stdout
        process.stdout.read()
    if process.returncode:
        raise UserError(f"{package}: dpkg-deb ended with status {process.returncode}; see its message above.")


class _Member(io.RawIOBase):
    """The content of a member of an archive, as a file that can be read once."""

    def __init__(self, file: BinaryIO, size: int, progress: Progress) -> None:
        self._file, self._remaining, self._progress = file, size, progress

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes. Raise `EOFError` if the file ends before the member."""
        size = self._remaining if size < 0 else min(size, self._remaining)
        content = self._file.read(size)
        if len(content) < size:
            raise EOFError("the file ends too early")
        self._remaining -= size
        self._progress.advance(size)
        return content
