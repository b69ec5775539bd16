"""Access to the files in a published archive, packed (`.tar.gz`) or unpacked."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mem.errors import UserError

MAX_BYTES = 500_000_000
"""Maximum size of an unpacked file, in bytes. The largest file of the published archives has 154 MB."""


@dataclass(frozen=True)
class Archive:
    """Files in a published archive or in the folder that it was unpacked to."""

    origin: Path
    """Path of the archive or the folder."""
    read: Callable[[str], bytes]
    """Function that returns the content of a file."""

    def path(self, name: str) -> str:
        """Return the path of a file for error messages."""
        return f"{self.origin}/{name}"


def open_archive(root: str, folder: str, archive: str, wanted: Sequence[str]) -> Archive | None:
    """Open the unpacked folder of an archive if it exists, else the archive.

    Args:
        root: Path of the archive, of the unpacked folder, or of the folder that contains either.
        folder: Name of the unpacked folder.
        archive: File name of the archive.
        wanted: Names of the files to read.

    Returns:
        The files, or None if neither the folder nor the archive exists.

    Raises:
        UserError: The archive is damaged, or the archive or the folder is incomplete.
    """
    given = Path(root).expanduser()
    for unpacked in (given / folder, given):
        present = [name for name in wanted if (unpacked / name).is_file()]
        if present and (unpacked.name == folder or len(present) == len(wanted)):
            if missing := [name for name in wanted if name not in present]:
                raise UserError(
                    f"{unpacked}: the folder is incomplete; missing files: {', '.join(missing)}. Unpack {archive} "
                    "again, or set dataset.root to the archive itself."
                )
            return _open_folder(unpacked)
    for packed in (given / archive, given):
        if packed.is_file() and (packed != given or packed.name == archive):
            return _open_tar(packed, folder, wanted)
    return None


def read_bounded(path: Path) -> bytes:
    """Return the content of a file, which is decompressed if its name ends with `.gz`.

    Raises:
        UserError: The content has more than `MAX_BYTES` bytes.
        OSError, EOFError, zlib.error: The file cannot be read or is damaged.
    """
    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise _too_large(str(path))
    return content


def _too_large(path: str) -> UserError:
    return UserError(
        f"{path}: has more than {MAX_BYTES:,} bytes, which is the limit. It is not the published file. Download it "
        "again."
    )


def _decompressed(path: Path) -> Any:
    with open(path, "rb") as file:
        start = file.read(6)
    openers = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
    opener = next((opener for magic, opener in openers.items() if start.startswith(magic)), open)
    return opener(path, "rb")


def _bounded(stream: Any) -> Any:
    """Return a file that rejects reads of more than `MAX_BYTES`, which the headers of an archive can request."""

    def read(size: int = -1) -> bytes:
        if not 0 <= size <= MAX_BYTES:
            raise tarfile.ReadError(f"a part of it has more than {MAX_BYTES:,} bytes, which is the limit")
        return stream.read(size)

    return SimpleNamespace(read=read, seek=stream.seek, tell=stream.tell)


def _open_folder(folder: Path) -> Archive:
    return Archive(folder, lambda name: read_bounded(folder / name))


def _open_tar(path: Path, folder: str, wanted: Sequence[str]) -> Archive:
    """Read the wanted files into memory in a single pass."""
    contents: dict[str, bytes] = {}
    try:
        with _decompressed(path) as stream, tarfile.open(fileobj=_bounded(stream), mode="r:") as tar:
            for member in tar:
                name = member.name.removeprefix("./").removeprefix(f"{folder}/")
                if name in wanted and (file := tar.extractfile(member)) is not None:
                    if member.size > MAX_BYTES:
                        raise _too_large(f"{path}/{name}")
                    content = file.read()
                    if len(content) != member.size:
                        raise EOFError(f"{name} has {len(content)} of {member.size} bytes")
                    contents[name] = content
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        raise UserError(f"{path}: the archive is damaged or incomplete: {error}. Download it again.") from None
    if missing := [name for name in wanted if name not in contents]:
        absent = ", ".join(f"{folder}/{name}" for name in missing)
        raise UserError(f"{path}: the archive does not contain {absent}. Download it again.")
    return Archive(path, contents.__getitem__)
