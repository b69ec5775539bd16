"""MkDocs hooks that add the README, the changelog, the settings reference and linked files to the site.

The site also works without a server, so that `build/site/index.html` can be opened as a file. The plugin `offline`
stores the search index as a script, and `iframe-worker.js` replaces the web worker of the search.
"""

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
    "README.md": "overview.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CODE_OF_CONDUCT.md": "code-of-conduct.md",
    "config/README.md": "reference/delivered-studies.md",
    "cluster/snakemake-executor-plugin-submitit/README.md": "executor-plugin.md",
    "cluster/snakemake-executor-plugin-submitit/docs/further.md": "executor-plugin-usage.md",
}
"""Site paths of the pages outside docs/."""
ASSETS = ("iframe-worker.js", "site.css")
"""Files in docs/_site/ that pages load."""
LINK = re.compile(r"(\]\()([^)#\s:]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages in `PAGES`, the settings reference, and all files outside docs/ that a page links to."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    files.append(File.generated(config, "reference.md", content=reference()))
    for name in ASSETS:
        files.append(File.generated(config, f"assets/{name}", abs_src_path=str(ROOT / "docs" / "_site" / name)))
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
    """Replace links to files in the repository with links to the corresponding pages on the site."""

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
    """Return the target of a page's link as a path relative to the repository root."""
    origin = next((source for source, name in PAGES.items() if name == page), f"docs/{page}")
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))


def _copied(target: str) -> str:
    """Return the site path for a linked file outside docs/. All files except figures are served as text."""
    return f"files/{target}" + ("" if os.path.splitext(target)[1] in (".png", ".svg") else ".txt")
