"""The font files of a folder, and their digest, which is part of the run keys of `source: glyphs`."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mem.errors import UserError

SUFFIXES = (".otf", ".ttf")
FONT_DIGEST = "font digest"
"""Name of the setting that contains the digest of the fonts."""
FONT_FOLDERS = ("data/fonts", "/usr/share/texlive/texmf-dist/fonts")
"""Folders of which the first one that exists is used by default: that of `mem data fonts`, and that of the Debian
package `texlive-fonts-extra`."""
FREETYPE = "freetype"
"""Name of the setting that contains the version of FreeType, which renders the fonts."""


@dataclass(frozen=True)
class FontFile:
    """A font file."""

    path: str
    name: str
    """Path relative to the innermost folder that contains all fonts, with `/` as separator. It does not depend on how
    many folders lie above the fonts."""
    size: int
    """Size in bytes; -1 for a broken link."""
    modified: int
    """Time of the last modification, in nanoseconds."""


def font_folder(root: str | None) -> Path:
    """Return the folder that contains the fonts: `root`, or the first default folder that exists, or else the last."""
    if root is not None:
        return Path(root).expanduser()
    existing = [folder for folder in FONT_FOLDERS if Path(folder).is_dir()]
    return Path([*existing, *FONT_FOLDERS[-1:]][0])


def find_fonts(root: Path) -> list[FontFile]:
    """Return all font files below a folder, sorted by name. Links to folders are not followed."""
    found: list[tuple[str, int, int]] = []
    for folder, _, names in os.walk(root):
        for name in names:
            if name.lower().endswith(SUFFIXES):
                path = os.path.join(folder, name)
                try:
                    status = os.stat(path)
                except OSError:
                    found.append((path, -1, 0))
                else:
                    found.append((path, status.st_size, status.st_mtime_ns))
    if not found:
        return []
    common = os.path.commonpath([os.path.dirname(path) for path, _, _ in found])
    fonts = [
        FontFile(path, os.path.relpath(path, common).replace(os.sep, "/"), size, modified)
        for path, size, modified in found
    ]
    return sorted(fonts, key=lambda font: font.name)


def font_settings(root: str | None) -> dict[str, str]:
    """Return the settings of a run key that identify the fonts and their renderer: a digest and FreeType's version.

    Without fonts there are no settings, so that a study can be planned before the fonts are available.

    Raises:
        UserError: Pillow, which contains FreeType, is not installed.
    """
    fonts = find_fonts(font_folder(root))
    return {FREETYPE: _freetype_version(), FONT_DIGEST: _fonts_digest(tuple(fonts))} if fonts else {}


@cache
def _fonts_digest(fonts: tuple[FontFile, ...]) -> str:
    """Return the first 12 hexadecimal digits of a SHA-256 hash of the fonts' names and contents.

    The digest is computed once per process, unless the size or the modification time of a file changes.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashlib releases the interpreter lock
        contents = pool.map(_content_digest, (font.path for font in fonts))
        lines = [f"{font.name} {content}\n" for font, content in zip(fonts, contents, strict=True)]
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:12]


def _content_digest(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "unreadable"  # the reader reports the font and does not use it


@cache
def _freetype_version() -> str:
    try:
        from PIL import features  # imported only for this dataset: the import delays the start of a workflow
    except ModuleNotFoundError:
        raise UserError(
            "dataset.source `glyphs` requires Pillow, because FreeType's version is part of the run keys. "
            "Install it: pip install pillow"
        ) from None
    version = features.version("freetype2")
    if version is None:
        raise UserError(
            "dataset.source `glyphs` requires FreeType, but this Pillow was built without it. Install a wheel of "
            "Pillow: pip install --force-reinstall --only-binary :all: pillow"
        )
    return version
