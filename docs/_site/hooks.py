"""MkDocs hooks that add pages from outside docs/: the README, the changelog, the settings reference, linked files."""

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
    "CONTRIBUTING.md": "contributing.md",
    "cluster/snakemake-executor-plugin-submitit/README.md": "executor-plugin.md",
    "cluster/snakemake-executor-plugin-submitit/docs/further.md": "executor-plugin-usage.md",
}
"""Pages outside docs/ and their names on the site."""
LINK = re.compile(r"(\]\()([^)#\s:]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of `PAGES`, the settings reference, and every file outside docs/ that a page links to."""
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
    """Rewrite the links of a page, which are relative to the repository, for the site."""

    def rewritten(match: re.Match[str]) -> str:
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

    return LINK.sub(rewritten, markdown)


def _in_repository(page: str, link: str) -> str:
    """Return the path, relative to the repository root, that a link on a page of the site refers to."""
    origin = next((source for source, name in PAGES.items() if name == page), f"docs/{page}")
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))


def _copied(target: str) -> str:
    """Return the site path of a file from outside docs/; everything except figures is served as text."""
    return f"files/{target}" + ("" if os.path.splitext(target)[1] in (".png", ".svg") else ".txt")
