"""The plugin's wheel runs a workflow in an environment with only its declared dependencies."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

from workflow_runner import TESTS

pytestmark = [pytest.mark.stage, pytest.mark.timeout(200)]
PLUGIN = TESTS.parent
SNAKEFILE = """\
rule all:
    input: "total.txt"
rule numbers:
    output: "numbers.txt"
    resources: tasks_per_node=2
    shell: "if [ $RANK = 0 ]; then seq 10 > {output}; else echo rank $RANK of $WORLD_SIZE; fi"
rule total:
    input: "numbers.txt"
    output: "total.txt"
    shell: "awk '{{ sum += $1 }} END {{ print sum }}' {input} > {output}"
"""


def dependencies(wheel: Path) -> dict[str, Distribution]:
    """Return the installed distributions that a wheel requires directly or indirectly, by name."""
    with ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
    waiting = [Requirement(text) for text in re.findall(r"^Requires-Dist: (.*)$", metadata, re.MULTILINE)]
    found: dict[str, Distribution] = {}
    while waiting:
        requirement = waiting.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in found or not (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue  # an optional dependency, or a dependency for a different platform
        waiting += [Requirement(text) for text in found[name].requires or ()]
    return found


def link(package: Distribution, folder: Path) -> None:
    """Make an installed distribution importable from another folder."""
    for name in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
        if not (folder / name).exists():
            (folder / name).symlink_to(Path(str(package.locate_file(name))))


@pytest.fixture
def environment(tmp_path) -> Path:
    """A virtual environment that contains only the plugin's wheel and its declared dependencies."""
    quiet = ("--quiet", "--disable-pip-version-check", "--no-deps")
    pip = [sys.executable, "-m", "pip"]
    wheels = tmp_path / "wheels"
    source = tmp_path / "source"
    source.mkdir()
    for path in PLUGIN.iterdir():  # the build writes into its folder
        if path.name in ("pyproject.toml", "README.md", "LICENSE", "snakemake_executor_plugin_submitit"):
            (source / path.name).symlink_to(path)
    subprocess.run([*pip, "wheel", *quiet, "--no-build-isolation", "--wheel-dir", wheels, source], check=True)
    (wheel,) = wheels.iterdir()
    venv.create(tmp_path / "environment", symlinks=True)
    (packages,) = (tmp_path / "environment/lib").glob("python*/site-packages")
    subprocess.run([*pip, "install", *quiet, "--target", packages, wheel], check=True)
    for package in dependencies(wheel).values():
        link(package, packages)
    return tmp_path / "environment"


def test_the_wheel_runs_a_foreign_workflow_without_torch_and_ffcv(environment, tmp_path):
    python = environment / "bin" / "python"
    variables = {"PATH": f"{python.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    folder = tmp_path / "workflow"
    folder.mkdir()
    for absent in ("torch", "ffcv", "mem"):
        imported = subprocess.run(
            [python, "-c", f"import {absent}"], cwd=folder, env=variables, capture_output=True, text=True
        )
        assert f"No module named '{absent}'" in imported.stderr
    (folder / "Snakefile").write_text(SNAKEFILE)
    command = [python, "-m", "snakemake", "--executor", "submitit", "--submitit-cluster", "local", "--jobs", "2"]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "total.txt").read_text() == "55\n"
    assert "rank 1 of 2" in (folder / ".snakemake/submitit/logs/numbers/job/rank1.txt").read_text()
