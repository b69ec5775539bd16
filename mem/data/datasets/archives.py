"""Files of a published archive: from the .tar.gz as it was downloaded, or from the folder that it unpacks to."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mem.errors import UserError


@dataclass(frozen=True)
class Archive:
    """Some files by name."""

    origin: Path
    """The archive, or the folder."""
    read: Callable[[str], bytes]

    def where(self, name: str) -> str:
        """A file, for messages."""
        return f"{self.origin}/{name}"


def open_archive(root: str, folder: str, archive: str, wanted: Sequence[str]) -> Archive | None:
    """The `wanted` files from `root`, which is the archive, its unpacked folder, or the folder that holds one of them.

    An unpacked folder is preferred.

    Returns:
        Nothing where neither is there.

    Raises:
        UserError: The archive or the folder is there, but not whole.
    """
    given = Path(root).expanduser()
    for unpacked in (given / folder, given):
        present = [name for name in wanted if (unpacked / name).is_file()]
        if present and (unpacked.name == folder or len(present) == len(wanted)):
            if missing := [name for name in wanted if name not in present]:
                raise UserError(
                    f"{unpacked}: half unpacked, or half copied: {', '.join(missing)} missing. Unpack {archive} again, "
                    "or name it as it is."
                )
            return _unpacked(unpacked)
    for packed in (given / archive, given):
        if packed.is_file() and (packed != given or packed.name == archive):
            return _packed(packed, folder, wanted)
    return None


def _unpacked(folder: Path) -> Archive:
    return Archive(folder, lambda name: (folder / name).read_bytes())


def _packed(path: Path, folder: str, wanted: Sequence[str]) -> Archive:
    """Read the wanted files in one pass, without writing anything."""
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
        raise UserError(f"{path}: no whole archive: {error}. Download it again.") from None
    if missing := [name for name in wanted if name not in contents]:
        raise UserError(f"{path}: has no {', '.join(f'{folder}/{name}' for name in missing)}: another archive, or half")
    return Archive(path, contents.__getitem__)
