"""Find a run by its folder, its key, or the first digits of its key."""

from __future__ import annotations

from pathlib import Path

from mem.errors import UserError


def find_run(name: str, root: Path) -> Path:
    """Return the folder, relative to `root`, of a run specified by folder, key or key prefix.

    Raises:
        UserError: No run matches, or several runs match.
    """
    if (root / name / "config.yaml").is_file():
        return Path(name)
    matches = _runs_with_prefix(name, root)
    if len(matches) == 1:
        return matches[0]
    if not matches:
        raise UserError(
            f"{name}: not a run folder, and not a prefix of a key in {root / 'runs'}. "
            "`mem runs STUDY` lists the runs of a study"
        )
    listed = "\n  ".join(map(str, matches[:10]))
    raise UserError(f"{name}: {len(matches)} runs have keys with this prefix. Specify more digits:\n  {listed}")


def existing_or_run(name: str, root: Path) -> Path:
    """Return an existing path unchanged, the folder of the run with the given key, or else the path unchanged.

    Raises:
        UserError: The name is a prefix of several keys.
    """
    if (root / name).exists() or not _runs_with_prefix(name, root):
        return Path(name)
    return find_run(name, root)


def _runs_with_prefix(prefix: str, root: Path) -> list[Path]:
    """Return the folders, relative to `root`, of the runs whose keys start with a prefix."""
    folders = sorted(path.parent.relative_to(root) for path in root.glob("runs/*/*/*/config.yaml"))
    return [path for path in folders if prefix and path.name.rsplit("-", 1)[-1].startswith(prefix)]
