"""Build of the distribution mem-longtail, whose metadata is in pyproject.toml.

The wheel contains the workflow, the studies and the profiles in the folder `mem/workflow_files/`. The build fails if a
file is missing from the wheel or from the source distribution, or if the wheel contains an unexpected file.
"""

from __future__ import annotations

import os
import re
import shutil
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).parent
WHEEL_FOLDER = "mem/workflow_files"
"""Folder of the workflow in the wheel. mem/installation.py has the same name."""
WORKFLOW = ("Snakefile", "workflow", "config", "slurm", "local", "profiles", "envs/environment.yaml")
"""Files and folders of the repository that the wheel contains in `WHEEL_FOLDER`."""
PROFILES = ("slurm", "local", "profiles/default")
REQUIRED = ("Snakefile", "config/digits_lt.yaml", *(f"{profile}/config.yaml" for profile in PROFILES))
"""Files of the workflow without which `mem init` and `mem run` do not work."""
_NOT_PACKAGED = re.compile(r"(^|/)(__pycache__|\.[^/]*)(/|$)|\.(pyc|pyo|so|o)$|~$")
_INCLUDE = re.compile(r'^(?:include:|ENVIRONMENT =) "([^"]+)"', re.MULTILINE)
_EXTENDS = re.compile(r"^extends: *['\"]?([^'\"#\s]+)", re.MULTILINE)


def packaged_files(root: Path, names: Iterable[str]) -> Iterator[str]:
    """Yield the paths, relative to `root`, of the files below the given files and folders."""
    for name in names:
        paths = [root / name] if (root / name).is_file() else sorted((root / name).rglob("*"))
        for path in paths:
            relative = path.relative_to(root).as_posix()
            if path.is_file() and not _NOT_PACKAGED.search(relative):
                yield relative


def expected_files(root: Path) -> dict[str, str]:
    """Return the path in the repository of every file that the wheel must contain, by its path in the wheel."""
    package = {name: name for name in packaged_files(root, ["mem"])}
    return package | {f"{WHEEL_FOLDER}/{name}": name for name in packaged_files(root, WORKFLOW)}


def missing_sources(root: Path) -> list[str]:
    """Describe the files that the workflow refers to and that do not exist, for example an included rule file."""
    needed = {name: "required by `mem init` and `mem run`" for name in REQUIRED}
    for name in ("Snakefile", *packaged_files(root, ["workflow"])):
        if name.endswith((".smk", "Snakefile")) and (root / name).is_file():
            folder = Path(name).parent
            for included in _INCLUDE.findall((root / name).read_text(encoding="utf-8")):
                needed[os.path.normpath(folder / included)] = f"used by {name}"
    for name in packaged_files(root, ["config"]):
        if not name.endswith(".yaml"):  # config/README.md shows a study that extends another one
            continue
        for base in _EXTENDS.findall((root / name).read_text(encoding="utf-8")):
            needed[os.path.normpath(Path(name).parent / base)] = f"extended by {name}"
    return [f"{name} ({reason})" for name, reason in needed.items() if not (root / name).is_file()]


def problems_of_wheel(root: Path, names: Iterable[str]) -> list[str]:
    """Describe what is wrong with the files of a wheel.

    Args:
        root: The repository.
        names: Paths of the files in the wheel.
    """
    found = {name for name in names if not name.partition("/")[0].endswith(".dist-info")}
    expected = expected_files(root)
    problems = [f"missing from the sources: {text}" for text in missing_sources(root)]
    for name, source in expected.items():
        if name not in found:
            advice = "add it to package-data in pyproject.toml" if source == name else "see WORKFLOW in setup.py"
            problems.append(f"missing from the wheel: {source} ({advice})")
    compiled = re.compile(r"mem/data/beton/_crops\.[^/]*so")
    extra = sorted(name for name in found - expected.keys() if not compiled.fullmatch(name))
    return problems + [f"unexpected: {name} (delete build/ and build again)" for name in extra]


def problems_of_source(root: Path, names: Iterable[str]) -> list[str]:
    """Describe the files that are missing from a source distribution, whose paths relative to its folder are given."""
    needed = {*expected_files(root).values(), "setup.py", "pyproject.toml", "README.md", "LICENSE"}
    return [f"missing from the source distribution: {name} (see MANIFEST.in)" for name in sorted(needed - {*names})]


def fail_on(problems: list[str], archive: Path) -> None:
    """End the build with a message, and delete the archive, if there are problems."""
    if problems:
        archive.unlink()
        raise SystemExit("\n".join([f"{archive.name} was not built:", *(f"  {problem}" for problem in problems)]))


class BuildWithWorkflow(build_py):
    """Copy the workflow into the package. An editable install uses the files of the repository instead."""

    def run(self) -> None:
        """Build the package."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, WHEEL_FOLDER)
        shutil.rmtree(target, ignore_errors=True)
        for name in packaged_files(ROOT, WORKFLOW):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)


class CheckedWheel(bdist_wheel):
    """Check the content of the wheel."""

    def run(self) -> None:
        """Build the wheel."""
        super().run()
        wheel = Path(self.distribution.dist_files[-1][2])
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
        fail_on(problems_of_wheel(ROOT, names), wheel)


class CheckedSource(sdist):
    """Check the content of the source distribution."""

    def make_distribution(self) -> None:
        """Create the archive."""
        super().make_distribution()
        for path in map(Path, self.archive_files or ()):
            with tarfile.open(path) as archive:
                names = [name.partition("/")[2] for name in archive.getnames()]
            fail_on(problems_of_source(ROOT, names), path)


if __name__ == "__main__":
    setup(cmdclass={"build_py": BuildWithWorkflow, "bdist_wheel": CheckedWheel, "sdist": CheckedSource})
