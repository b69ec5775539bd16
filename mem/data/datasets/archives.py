"""Access to the files in a published archive, packed (`.tar.gz`) or unpacked."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mem.errors import UserError


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


def _open_folder(folder: Path) -> Archive:
    return Archive(folder, lambda name: (folder / name).read_bytes())


def _open_tar(path: Path, folder: str, wanted: Sequence[str]) -> Archive:
    """Read the wanted files into memory in a single pass."""
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:*") as tar:
            for member in tar:
                name = member.name.removeprefix("./").removeprefix(f"{folder}/")
                if name in wanted and (file := tar.extractfile(member)) is not None:
                    content = file.read()
                    if len(content) != member.size:
                        raise EOFError(f"{name} has {len(content)} of {member.size} bytes")
                    contents[name] = content
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise UserError(f"{path}: the archive is damaged or incomplete: {error}. Download it again.") from None
    if missing := [name for name in wanted if name not in contents]:
        absent = ", ".join(f"{folder}/{name}" for name in missing)
        raise UserError(f"{path}: the archive does not contain {absent}. Download it again.")
    return Archive(path, contents.__getitem__)
