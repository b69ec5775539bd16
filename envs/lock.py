"""Write the lock files of this folder with uv: versions and SHA-256 hashes of all third-party packages.

Usage: python envs/lock.py [--upgrade]. Without --upgrade, versions in the present files are kept as far as possible.
Hashes are those that the package index states for each file.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ENVS = Path(__file__).parent
PLUGIN = "snakemake-executor-plugin-submitit"
PROJECTS = ("pyproject.toml", f"cluster/{PLUGIN}/pyproject.toml")
USERS, DEVELOPERS, CUDA_12, FFCV = (ENVS / f"requirements{suffix}.txt" for suffix in ("", "-dev", "-cuda12", "-ffcv"))
USER_EXTRAS = ("onnx", "text")
HEADERS = {
    USERS: "Requirements of mem and its executor plugin.",
    DEVELOPERS: "Requirements of mem and its executor plugin, and those of tests, linters and documentation.",
    CUDA_12: "Requirements of mem and its executor plugin, with torch for CUDA 12, for drivers before version 580.",
    FFCV: "FFCV and what only FFCV requires. Install this file together with one of the others.",
}
NOTE = "# {}\n# Written by `make lock`. Install with: pip install --require-hashes {}\n"


def compile_lock(output: Path, extras: tuple[str, ...], upgrade: bool, constraints: str = "") -> None:
    """Resolve the requirements of both distributions with `extras` and write them to `output`.

    Args:
        output: The lock file. Its versions are preferred, unless `upgrade` is set.
        extras: Extras of mem.
        upgrade: Whether to use the newest versions.
        constraints: Requirement specifiers, one per line, that limit versions.
    """
    options = [
        "--universal", "--python-version", "3.11", "--generate-hashes", "--no-emit-index-url", "--no-annotate",
        "--no-header", "--quiet", "--output-file", str(output), "--constraints", "-", f"--no-emit-package={PLUGIN}",
    ]  # fmt: skip
    options += [f"--extra={extra}" for extra in extras] + ["--upgrade"] * upgrade
    subprocess.run(["uv", "pip", "compile", *PROJECTS, *options], check=True, text=True, input=constraints)


def pins(path: Path) -> str:
    """Return the lines `name==version` of a lock file, without hashes."""
    return re.sub(r" \\\n(?: +--hash=\S+(?: \\)?\n)+", "\n", path.read_text())


def without(text: str, present: str) -> str:
    """Remove the packages from a lock file's text that are also in the text `present`."""
    names = set(re.findall(r"^([^\s=#]+)==", present, re.MULTILINE))
    blocks = re.split(r"^(?=[^\s#])", text, flags=re.MULTILINE)
    return "".join(block for block in blocks if block.split("==")[0] not in names)


def main(upgrade: bool) -> None:
    """Write all lock files."""
    compile_lock(USERS, USER_EXTRAS, upgrade)
    compile_lock(FFCV, (*USER_EXTRAS, "ffcv"), upgrade, pins(USERS))
    compile_lock(DEVELOPERS, ("dev", "ffcv"), upgrade, pins(USERS) + pins(FFCV))
    compile_lock(CUDA_12, USER_EXTRAS, upgrade, "torch<2.11\n")  # the last release whose PyPI wheels use CUDA 12
    FFCV.write_text(without(FFCV.read_text(), USERS.read_text()))
    DEVELOPERS.write_text(without(DEVELOPERS.read_text(), FFCV.read_text()))
    for path, header in HEADERS.items():
        files = f"-r envs/{path.name}" if path != FFCV else f"-r envs/{USERS.name} -r envs/{path.name}"
        path.write_text(NOTE.format(header, files) + path.read_text())


if __name__ == "__main__":
    main("--upgrade" in sys.argv[1:])
