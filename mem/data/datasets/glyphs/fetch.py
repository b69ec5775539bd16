"""`mem data fonts`: downloads the fonts of Debian's `texlive-fonts-extra` and unpacks them into a folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from mem.data.datasets.glyphs.debian_package import unpack_fonts
from mem.download import download
from mem.errors import UserError
from mem.runs.font_files import FONT_FOLDERS, find_fonts

PACKAGE = "texlive-fonts-extra"
VERSION = "2022.20230122-4"
"""Version of the package in Debian 12."""
FILE = f"{PACKAGE}_{VERSION}_all.deb"
SHA256 = "abddeda6b66ee9c38df1f7fd2d20670b25f3a738df74c0ee91001f6b1466b1e4"
"""SHA-256 of the package, from the package index of Debian 12."""
_MANUALLY = (
    f"Use --from with the package {FILE}, as a file or as its address on a Debian mirror (pool/main/t/texlive-extra/)."
)


def fetch_fonts(folder: Path, source: str | None, say: Callable[[str], None]) -> None:
    """Download and unpack the fonts, unless the folder exists.

    The folder is complete if it exists: the fonts are unpacked into another folder, which is then renamed. An
    interrupted download is resumed.

    Args:
        folder: Folder to create.
        source: A file or an address of a Debian package. None selects the version of Debian 12, which apt-get downloads
            from the mirror of this machine.
        say: Called with messages for the user.

    Raises:
        UserError: The package cannot be downloaded or unpacked, or it is not the expected one.
    """
    if folder.is_dir():
        fonts = len(find_fonts(folder))
        if not fonts:
            raise UserError(
                f"{folder}: exists, but contains no fonts. Delete the folder, or choose another one with --to."
            )
        say(f"{folder} already contains {fonts:,} font{'s' * (fonts != 1)}. To download them again, delete the folder.")
        return
    if any(path.is_file() for path in (folder, *folder.parents)):
        raise UserError(f"{folder}: a part of this path is a file. Choose another folder with --to.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    local = Path(source).expanduser() if source is not None and "://" not in source else None
    package = local or folder.with_name(f".{folder.name}.deb")
    if local is not None and not local.is_file():
        raise UserError(f"{local}: not found. --from expects a Debian package or an address with ://.")
    if local is None and not package.is_file():
        _download(package, source, say)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by an interrupted run
    say(f"Unpacking the fonts of {package}")
    try:
        number = unpack_fonts(package, partial)
    except UserError:
        shutil.rmtree(partial, ignore_errors=True)
        if local is None:
            package.unlink()
        raise
    digest = _sha256(package)
    os.replace(partial, folder)
    if local is None:
        package.unlink()
    default = " (the default)" if str(folder) == FONT_FOLDERS[0] else ""
    say(f"{folder} contains {number:,} fonts. Use them with dataset.root: {folder}{default}")
    if digest != SHA256:
        say(
            f"The package is not {FILE}, whose fonts the results of this project were computed with. Other fonts are "
            "another dataset with other run keys."
        )


def _download(package: Path, source: str | None, say: Callable[[str], None]) -> None:
    """Download the package. The file exists only after the download is complete."""
    if source is None:
        _download_with_apt(package, say)
        return
    part = package.with_name(f"{package.name}.part")
    say(f"Downloading {source}")
    download(source, part, say, "mem data fonts --from FILE")
    os.replace(part, package)


def _download_with_apt(package: Path, say: Callable[[str], None]) -> None:
    """Download the package with apt-get from the mirror of this machine, and verify its checksum."""
    folder = package.with_name(f"{package.name}.apt")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    say(f"Downloading {PACKAGE} {VERSION} with apt-get (about 510 MB)")
    command = ["apt-get", "download", "-qq", f"{PACKAGE}={VERSION}"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        found = next(folder.glob("*.deb"), None)
        if done.returncode or found is None or _sha256(found) != SHA256:
            reason = " ".join(done.stderr.split()) or "it wrote no file with the expected SHA-256"
            raise UserError(f"apt-get cannot download {FILE}: {reason}. {_MANUALLY}")
        os.replace(found, package)
    except FileNotFoundError:
        raise UserError(f"{PACKAGE}: cannot be downloaded, because this machine has no apt-get. {_MANUALLY}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
