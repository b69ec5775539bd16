"""The container recipe copies all of the project's packages, and every path that it copies exists."""

from __future__ import annotations

import ast
import re

from tests.conftest import REPOSITORY


def copied_paths() -> list[str]:
    recipe = (REPOSITORY / "envs" / "mem.def").read_text()
    section = re.search(r"^%files\n(.*?)^%", recipe, re.MULTILINE | re.DOTALL)
    assert section
    return [line.split()[0] for line in section[1].splitlines() if line.strip()]


def test_every_copied_path_exists():
    assert [name for name in copied_paths() if not (REPOSITORY / name).exists()] == []


def test_every_package_of_the_project_is_copied():
    """The build of the wheel fails without the workflow, and setup.sh installs both distributions."""
    assignments = {
        statement.targets[0].id: statement.value
        for statement in ast.parse((REPOSITORY / "setup.py").read_text()).body
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
    }
    needed = {"mem", "cluster", "envs", "setup.py", *ast.literal_eval(assignments["WORKFLOW"])}
    copied = set(copied_paths())
    assert {path for path in needed if not {path, path.partition("/")[0]} & copied} == set()


def test_the_base_image_is_pinned_by_its_digest():
    recipe = (REPOSITORY / "envs" / "mem.def").read_text()
    assert re.search(r"^From: debian@sha256:[0-9a-f]{64}$", recipe, re.MULTILINE)
