"""The working folder that a `runs/` folder belongs to. Two working folders cannot share one `runs/`."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import IO

from mem import files
from mem.errors import UserError

OWNER_FILE = "working-folder.txt"
"""File in `runs/` with the path of the working folder whose workflow process used the folder last."""

LOCK_FILE = Path(".snakemake", "mem-head.lock")
"""Lock of the process that works in the working folder: a workflow process, or a command that removes runs."""
_LOCK_TRIALS = 10
"""Number of times that a lock is tried again."""


def lock_working_folder(root: Path, advice: str) -> IO[str]:
    """Lock a working folder, so that no workflow process runs in it, until the returned file is closed.

    The kernel releases the lock when the process ends, even if the process is killed.

    Args:
        root: The working folder.
        advice: End of the message if another process holds the lock.

    Raises:
        UserError: Another process holds the lock, and the message identifies the process; or the file system does not
            support locks.
    """
    path = root / LOCK_FILE
    path.parent.mkdir(exist_ok=True)
    file = open(path, "a+", encoding="utf-8")
    locked = files.try_lock(file)
    for _ in range(_LOCK_TRIALS):  # `mem status` holds the lock for a moment while it looks
        if locked is not False:
            break
        time.sleep(0.05)
        locked = files.try_lock(file)
    if not locked:
        file.seek(0)
        holder = file.read().strip()
        file.close()
        raise UserError(
            f"{root.absolute()}: the file system does not support locks (flock), which keep a second workflow process "
            "out. Use a folder on another file system; on Lustre, locks require the mount option flock."
            if locked is None
            else f"Another workflow process is running in this folder: {holder}. {advice}"
        )
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}")
    file.flush()
    return file


def claim_runs(root: Path) -> None:
    """Record in `runs/` that it belongs to the working folder `root`.

    `runs/` may be a link to another disk, but not to the `runs/` of another working folder. Snakemake records the state
    of files and jobs per working folder, in `.snakemake/`. A second working folder would start the jobs of the first
    one again, and would delete the outputs of their runs when its own jobs fail. A lock for the lifetime of the
    workflow process would not prevent this, because SLURM jobs can outlive the workflow process that submitted them.

    If the recorded folder was moved or deleted, or has another `runs/`, `root` takes its place. A folder that is not
    visible on this machine counts as deleted.

    Raises:
        UserError: Another working folder uses the same `runs/`. The message contains both folders.
    """
    here, runs = root.resolve(), root / "runs"
    path = runs / OWNER_FILE
    recorded = path.read_text(encoding="utf-8", errors="surrogateescape").removesuffix("\n") if path.exists() else ""
    if recorded == str(here):
        return
    other = Path(recorded)
    if recorded and _same(other / "runs", runs) and not _same(other, here):
        raise UserError(
            f"{here}: its runs/ is also the runs/ of the working folder {other}. Two working folders cannot share "
            f"runs/, because each would repeat the other's jobs and delete their outputs. Run this command in {other}, "
            "or give this folder a runs/ of its own. If the other folder is no longer used, move its runs/ here."
        )
    files.write_text(path, f"{here}\n")


def _same(one: Path, other: Path) -> bool:
    """Return whether two paths lead to the same folder. A path that cannot be read leads to no folder."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
