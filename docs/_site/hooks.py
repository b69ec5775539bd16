"""What the site takes from outside docs/: README as its home, the changelog, the schema's reference, linked files."""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from mem.config.reference import reference

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "cluster/snakemake-executor-plugin-submitit/README.md": "executor-plugin.md",
}
"""Pages that live elsewhere in the repository, and what the site calls them."""
LINK = re.compile(r"(\]\()([^)#\s:]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from elsewhere, the reference, and every file outside docs/ that a page links to."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    files.append(File.generated(config, "reference.md", content=reference()))
    linked: set[str] = set()
    for file in list(files.documentation_pages()):
        for match in LINK.finditer(file.content_string):
            target = _in_repository(file.src_uri, match[2])
            if not target.startswith("docs/") and target not in PAGES and (ROOT / target).is_file():
                linked.add(target)
    for target in sorted(linked):
        files.append(File.generated(config, _copied(target), abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links as the repository has them, turned into the site's."""

    def turned(match: re.Match[str]) -> str:
        target = _in_repository(page.file.src_uri, match[2])
        if target.startswith("docs/"):
            found = target.removeprefix("docs/")
        elif target in PAGES:
            found = PAGES[target]
        elif (ROOT / target).is_file():
            found = _copied(target)
        else:
            return match[0]
        here = posixpath.dirname(page.file.src_uri)
        return f"{match[1]}{posixpath.relpath(found, here or '.')}{match[3] or ''})"

    return LINK.sub(turned, markdown)


def _in_repository(page: str, link: str) -> str:
    """The path from the repository's root that a link on a page of the site means."""
    origin = next((source for source, name in PAGES.items() if name == page), f"docs/{page}")
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))


def _copied(target: str) -> str:
    """Where the site keeps a file from outside docs/; a text file, whatever its name."""
    return f"files/{target}" + ("" if os.path.splitext(target)[1] in (".png", ".svg") else ".txt")
