"""The container recipe copies all of the project's packages, and every path that it copies exists."""

from __future__ import annotations

import re
import tomllib

from tests.conftest import REPOSITORY


def copied_paths() -> list[str]:
    recipe = (REPOSITORY / "envs" / "mem.def").read_text()
    section = re.search(r"^%files\n(.*?)^%", recipe, re.MULTILINE | re.DOTALL)
    assert section
    return [line.split()[0] for line in section[1].splitlines() if line.strip()]


def test_every_copied_path_exists():
    assert [name for name in copied_paths() if not (REPOSITORY / name).exists()] == []


def test_every_package_of_the_project_is_copied():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages <= set(copied_paths())
