"""envs/setup.sh on systems with apt, dnf, conda or none of them, which stand-ins on PATH imitate."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.stage

PYTHON = """#!/bin/sh
case "$*" in
    *version_info*|*sysconfig*) exec {python} "$@" ;;
    *ensurepip*) exit {without_ensurepip} ;;
    *sys.prefix*) exit {not_conda} ;;
    "-m venv"*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && printf '#!/bin/sh\\necho mem 0\\n' > "$3/bin/mem" \\
        && chmod +x "$3/bin/mem" ;;
    *requirements-ffcv*) echo "pip $*" >> {log}; exit {ffcv_fails} ;;
    *) echo "pip $*" >> {log} ;;
esac
"""
INSTALLS = """#!/bin/sh
echo "$(basename "$0") $*" >> {log}
case "$*" in *libopencv*|*opencv-devel*) touch {folder}/installed ;; esac
exit {status}
"""
PKG_CONFIG = """#!/bin/sh
[ -e {folder}/installed ]
"""


class System:
    """A folder that is the only one on PATH, and a log of the package managers' and pip's commands."""

    def __init__(self, folder: Path, *managers: str, root: bool = True, compiler: bool = False, **values: int) -> None:
        self.folder, self.log = folder, folder / "log"
        self.log.touch()
        (folder / "bin").mkdir()
        for tool in ("bash", "dirname", "basename", "sort", "tr", "mkdir", "cp", "chmod", "touch", "cat"):
            (folder / "bin" / tool).symlink_to(str(shutil.which(tool)))
        self.values = {"python": sys.executable, "without_ensurepip": 0, "not_conda": 1, "ffcv_fails": 0, "status": 0}
        self.values |= values
        self.add("python3.11", PYTHON)
        self.add("id", f"#!/bin/sh\necho {0 if root else 1000}\n")
        for manager in managers:
            self.add(manager, INSTALLS)
            self.add("pkg-config", PKG_CONFIG)
        if compiler:
            self.add("g++", "#!/bin/sh\n")

    def add(self, name: str, script: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(
            script.format(folder=self.folder, log=self.log, **self.values)
            if "{log}" in script or "{folder}" in script
            else script
        )
        path.chmod(0o755)

    def setup(self, *options: str, **variables: str) -> subprocess.CompletedProcess:
        env = {"PATH": str(self.folder / "bin"), "HOME": str(self.folder), **variables}
        command = ["bash", str(REPOSITORY / "envs" / "setup.sh"), *options, str(self.folder / "venv")]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)

    def commands(self, program: str) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if line.startswith(program)]


def test_dnf_installs_the_packages_of_rocky_linux(tmp_path):
    system = System(tmp_path, "dnf", compiler=True)
    done = system.setup("--users")
    assert done.returncode == 0, done.stderr
    [command] = system.commands("dnf")
    assert set(command.split()[4:]) >= {"libjpeg-turbo-devel", "opencv-devel", "turbojpeg-devel"}
    assert "-m pip install" in system.commands("pip")[0]
    assert (
        "--require-hashes --requirement=envs/requirements.txt --requirement=envs/requirements-ffcv.txt"
        in (system.commands("pip")[0])
    )
    assert "--no-deps --editable ." in system.commands("pip")[1]


@pytest.mark.parametrize(("manager", "advice"), [("dnf", "epel-release"), ("apt-get", "sudo apt-get install")])
def test_a_package_manager_that_fails_leads_to_an_installation_without_ffcv(tmp_path, manager, advice):
    """For example without a network connection, or if a package does not exist."""
    system = System(tmp_path, manager)
    for name in (manager, "apt-cache"):
        system.add(name, "#!/bin/sh\nexit 1\n")
    done = system.setup()
    assert done.returncode == 0, done.stderr
    assert "Continuing without FFCV" in done.stderr
    assert advice in done.stderr
    assert "requirements-ffcv" not in system.log.read_text()
    assert "--requirement=envs/requirements-dev.txt" in system.commands("pip")[0]


def test_without_root_the_commands_are_printed_and_ffcv_is_left_out(tmp_path):
    system = System(tmp_path, "apt-get", "apt-cache", root=False)
    done = system.setup("--cuda12")
    assert done.returncode == 0, done.stderr
    assert not system.commands("apt-get")
    assert "sudo apt-get install" in done.stderr and "libopencv-dev" in done.stderr
    assert "conda env create -f envs/environment.yaml" in done.stderr
    assert "--requirement=envs/requirements-cuda12.txt" in system.commands("pip")[0]
    assert "without FFCV" in done.stderr.splitlines()[-1]


def test_in_a_conda_environment_conda_forge_provides_compiler_and_libraries(tmp_path):
    system = System(tmp_path, "apt-get", "mamba", root=False, compiler=True, not_conda=0)
    scripts = tmp_path / "etc" / "conda" / "activate.d"
    scripts.mkdir(parents=True)
    (scripts / "compiler.sh").write_text("export CXX=conda-c++\n")
    done = system.setup(CONDA_PREFIX=str(tmp_path))
    assert done.returncode == 0, done.stderr
    [command] = system.commands("mamba")
    assert f"install --yes --quiet --prefix {tmp_path} --channel conda-forge" in command
    assert "libopencv=4" in command.split()
    assert "requirements-ffcv" in system.commands("pip")[0]


def test_the_base_environment_of_conda_is_not_changed(tmp_path):
    system = System(tmp_path, "mamba", root=False, not_conda=0)
    done = system.setup(CONDA_PREFIX=str(tmp_path), CONDA_DEFAULT_ENV="base")
    assert done.returncode == 0, done.stderr
    assert not system.commands("mamba")
    assert "conda env create -f envs/environment.yaml" in done.stderr


def test_without_ffcv_no_compiler_is_needed(tmp_path):
    system = System(tmp_path)
    done = system.setup("--without-ffcv")
    assert done.returncode == 0, done.stderr
    assert "Missing" not in done.stderr
    assert "requirements-ffcv" not in system.log.read_text()


def test_an_ffcv_that_does_not_compile_is_left_out(tmp_path):
    system = System(tmp_path, "dnf", compiler=True, ffcv_fails=1)
    (tmp_path / "installed").touch()
    done = system.setup()
    assert done.returncode == 0, done.stderr
    assert "FFCV could not be installed" in done.stderr
    assert [("ffcv" in command) for command in system.commands("pip")] == [True, False, False]


def test_without_ensurepip_and_root_the_package_is_named(tmp_path):
    system = System(tmp_path, "apt-get", root=False, without_ensurepip=1)
    done = system.setup("--without-ffcv")
    assert done.returncode == 1
    assert "sudo apt-get install python{}.{}-venv".format(*sys.version_info) in done.stderr
    assert not system.commands("pip")


def test_an_unknown_option_is_rejected(tmp_path):
    done = System(tmp_path).setup("--user")
    assert done.returncode == 2
    assert "Unknown option: --user. Expected --users" in done.stderr


def test_the_lock_files_contain_only_versions_and_hashes():
    """No file has an index address, and no package is without a hash."""
    for path in sorted((REPOSITORY / "envs").glob("requirements*.txt")):
        lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        packages = [line for line in lines if not line.startswith(" ")]
        assert all("==" in line and line.endswith(" \\") for line in packages), path
        assert all(line.strip().startswith("--hash=sha256:") for line in lines if line.startswith(" ")), path
        assert "mem-longtail" not in path.read_text() and os.sep * 2 not in path.read_text()
