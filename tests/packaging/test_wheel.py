"""The wheel: its content, a build that fails if something is missing, and its use without a checkout."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import cv2
import numpy as np
import pytest

from tests.conftest import REPOSITORY

PLUGIN = REPOSITORY / "cluster" / "snakemake-executor-plugin-submitit"
SOURCES = ("mem", "Snakefile", "workflow", "config", "slurm", "local", "profiles", "envs")
BUILD = runpy.run_path(str(REPOSITORY / "setup.py"))


# --- the check of the build -----------------------------------------------------------------------------


@pytest.fixture
def sources(tmp_path) -> Path:
    """A copy of the files from which the wheel is built."""
    for name in SOURCES:
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
        copy(REPOSITORY / name, tmp_path / name)
    return tmp_path


def names_in_wheel(root: Path) -> list[str]:
    return [
        *BUILD["expected_files"](root),
        "mem/data/beton/_crops.cpython-311.so",
        "mem_longtail-0.1.0.dist-info/RECORD",
    ]


def test_a_complete_wheel_has_no_problems(sources):
    assert BUILD["problems_of_wheel"](sources, names_in_wheel(sources)) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "mem/report/page.css",
            "missing from the wheel: mem/report/page.css (add it to package-data in pyproject.toml)",
        ),
        ("mem/cli/main.py", "missing from the wheel: mem/cli/main.py"),
        ("mem/workflow_files/Snakefile", "missing from the wheel: Snakefile (see WORKFLOW in setup.py)"),
        ("mem/workflow_files/config/digits_lt.yaml", "missing from the wheel: config/digits_lt.yaml"),
        ("mem/workflow_files/workflow/report/table1.rst", "missing from the wheel: workflow/report/table1.rst"),
    ],
)
def test_a_file_that_is_missing_from_the_wheel_is_a_problem(sources, name, expected):
    names = names_in_wheel(sources)
    names.remove(name)
    (problem,) = BUILD["problems_of_wheel"](sources, names)
    assert problem.startswith(expected)


@pytest.mark.parametrize("name", ["cluster/__init__.py", "mem/removed.py", "build/lib/mem/x.py"])
def test_an_unexpected_file_in_the_wheel_is_a_problem(sources, name):
    (problem,) = BUILD["problems_of_wheel"](sources, [*names_in_wheel(sources), name])
    assert problem == f"unexpected: {name} (delete build/ and build again)"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("workflow/rules/report.smk", "workflow/rules/report.smk (used by Snakefile)"),
        ("envs/environment.yaml", "envs/environment.yaml (used by workflow/rules/common.smk)"),
        ("config/fashion_lt.yaml", "config/fashion_lt.yaml (extended by config/"),
        ("slurm/config.yaml", "slurm/config.yaml (required by `mem init` and `mem run`)"),
    ],
)
def test_a_file_that_is_missing_from_the_sources_is_a_problem(sources, name, expected):
    (sources / name).unlink()
    problems = BUILD["problems_of_wheel"](sources, names_in_wheel(sources))
    assert any(problem.startswith(f"missing from the sources: {expected}") for problem in problems)


def test_a_file_that_is_missing_from_the_source_distribution_is_a_problem(sources):
    names = [*BUILD["expected_files"](sources).values(), "setup.py", "pyproject.toml", "README.md", "LICENSE"]
    assert BUILD["problems_of_source"](sources, names) == []
    names.remove("workflow/rules/adapt.smk")
    (problem,) = BUILD["problems_of_source"](sources, names)
    assert problem == "missing from the source distribution: workflow/rules/adapt.smk (see MANIFEST.in)"


# --- the wheel in an environment without the checkout ------------------------------------------------------


def build(source: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Build the wheel of a folder with sources."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def linked_sources(folder: Path, root: Path, names: tuple[str, ...]) -> Path:
    """Return a folder with links to the sources of a distribution, because a build writes into its folder."""
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to(root / name)
    return folder


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> list[Path]:
    """The wheels of mem and of the executor plugin."""
    folder = tmp_path_factory.mktemp("wheels")
    files = ("pyproject.toml", "README.md", "LICENSE")
    own = linked_sources(folder / "mem", REPOSITORY, (*SOURCES, *files, "setup.py", "MANIFEST.in"))
    plugin = linked_sources(folder / "plugin", PLUGIN, (*files, "snakemake_executor_plugin_submitit"))
    for source in (own, plugin):
        done = build(source, folder / "built")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return sorted((folder / "built").iterdir())


@pytest.fixture(scope="module")
def installed(wheels, tmp_path_factory) -> Path:
    """A virtual environment with the wheels, in which the other packages of this environment are linked."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    for wheel in wheels:
        with ZipFile(wheel) as archive:
            archive.extractall(packages)
    own = re.compile(r"mem|mem_longtail.*|snakemake_executor_plugin_submitit.*|__editable__.*|.*\.pth")
    for path in Path(cv2.__file__).parents[1].iterdir():
        if not own.fullmatch(path.name) and not (packages / path.name).exists():
            (packages / path.name).symlink_to(path)
    script = folder / "bin" / "mem"
    script.write_text(f"#!{folder}/bin/python\nimport sys\nfrom mem.cli.main import main\nsys.exit(main())\n")
    script.chmod(0o755)
    return folder


@pytest.fixture
def mem(installed, tmp_path) -> Callable[..., str]:
    """Function that runs the installed command in a folder, without the environment's folder on the path."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}

    def run(*arguments: str, folder: Path = tmp_path) -> str:
        done = subprocess.run(
            [installed / "bin" / "mem", *arguments],
            cwd=folder,
            env={**variables, "PATH": os.defpath},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        assert str(REPOSITORY) not in done.stdout
        return done.stdout

    return run


def stage(function: Any) -> Any:
    return pytest.mark.stage(pytest.mark.timeout(300)(function))


@stage
def test_the_wheel_has_no_package_besides_mem_and_depends_on_the_plugin(wheels):
    own, plugin = (ZipFile(wheel) for wheel in wheels)
    with own, plugin:
        tops = {name.partition("/")[0] for name in own.namelist()}
        (metadata,) = (name for name in own.namelist() if name.endswith(".dist-info/METADATA"))
        assert {name for name in tops if not name.endswith(".dist-info")} == {"mem"}
        assert "Requires-Dist: snakemake-executor-plugin-submitit" in own.read(metadata).decode()
        assert "snakemake_executor_plugin_submitit/doctor/probe.py" in plugin.namelist()


@stage
def test_the_build_fails_if_a_file_is_missing(sources, tmp_path):
    for name in ("pyproject.toml", "README.md", "LICENSE", "setup.py", "MANIFEST.in"):
        shutil.copy(REPOSITORY / name, sources / name)
    (sources / "mem/report/table.unlisted").touch()
    (sources / "workflow/rules/adapt.smk").unlink()
    done = build(sources, tmp_path / "built")
    assert done.returncode != 0
    assert "missing from the wheel: mem/report/table.unlisted (add it to package-data" in done.stdout + done.stderr
    assert "missing from the sources: workflow/rules/adapt.smk (used by Snakefile)" in done.stdout + done.stderr
    assert not list((tmp_path / "built").glob("*.whl"))


@stage
def test_a_project_runs_from_the_wheel_without_a_checkout(mem, tmp_path):
    assert "mem run digits_lt" in mem("init", "demo")
    planned = mem("run", "digits_lt", "-n", folder=tmp_path / "demo")
    assert "workflow_files/profiles/default" not in planned, "the project has its own profiles"
    assert re.search(r"^train_head +5$", planned, re.MULTILINE)
    assert "dry-run" in planned
    other = tmp_path / "other"
    other.mkdir()
    planned = mem("run", "fashion_scratch", "-n", "--profile", "local", folder=other)
    assert "workflow_files/local and workflow specific profile" in planned
    assert "workflow_files/profiles/default" in planned


@stage
def test_a_study_of_pictures_is_planned_from_the_wheel(mem, tmp_path):
    generator = np.random.default_rng(0)
    for name, count in (("ant", 12), ("bee", 6), ("cat", 4)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(count):
            pixels = generator.integers(0, 256, (30, 40, 3), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / "pictures" / name / f"{i}.jpg"), pixels)
    assert "All of them can be read." in mem("init", "birds", "--folder", "pictures")
    planned = mem("run", "birds", "-n", folder=tmp_path / "birds")
    assert re.search(r"^features +[13]$", planned, re.MULTILINE)


@stage
def test_the_doctor_is_part_of_the_wheels(mem):
    assert "usage: mem doctor" in mem("doctor", "--help")
