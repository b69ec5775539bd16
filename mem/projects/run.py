"""The command line of `snakemake` that runs a study from any folder: `mem run`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from mem.config.study_names import find_study
from mem.installation import PROFILES, snakefile, workflow_folder

_DOCTOR = "snakemake_executor_plugin_submitit.doctor.__main__"
_CONFIG = re.compile(r"(--config)(?:=(.*))?|(-C)(.*)", re.DOTALL)
"""The option for values that override settings, optionally with the first value."""
_SNAKEFILE = re.compile(r"--snakefile(=.*)?|-s")
_RESOURCES = re.compile(r"(--cores|--jobs|--profile|--executor)(=.*)?|-[cje].*")
"""Options that specify where and with how many cores the jobs run."""


def run_study(study: str, arguments: Sequence[str]) -> NoReturn:
    """Replace this process by Snakemake, which runs a study. Its exit status is that of this process.

    Args:
        study: Path or name of the study.
        arguments: Further arguments of Snakemake.

    Raises:
        UserError: There is no such study.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    command = snakemake_command(study, arguments, os.environ)
    os.execvpe(command[0], command, environment_of_jobs(os.environ))


def snakemake_command(study: str, arguments: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Return the command that runs a study: `snakemake` with the installed workflow, the study and the arguments.

    Without arguments that specify where the jobs run, they use all cores of this machine. The profiles `slurm` and
    `local` are those of the current folder, or those that are delivered with mem.

    Args:
        study: Path or name of the study.
        arguments: Further arguments of Snakemake. Values of `--config` override settings of the study.
        environment: Environment variables.

    Raises:
        UserError: There is no such study.
    """
    # The path is absolute, because Snakemake changes to the folder of --directory before it reads the Snakefile.
    setting = f"study={_as_config_value(str(find_study(study).absolute()))}"
    given = _with_profiles(arguments)
    options = [] if any(map(_SNAKEFILE.fullmatch, given)) else ["--snakefile", str(snakefile())]
    if not any(map(_RESOURCES.fullmatch, given)) and "SNAKEMAKE_PROFILE" not in environment:
        options += ["--cores", "all"]
    position = _position_of_config(given)
    if position is None:
        end = given.index("--") if "--" in given else len(given)
        return [*_snakemake(), *options, *given[:end], "--config", setting, *given[end:]]
    # Snakemake uses only the last --config.
    found = _CONFIG.fullmatch(given[position])
    assert found is not None
    option, value = found[1] or found[3], found[2] or found[4]
    merged = [option, setting, *([value] if value else [])]
    return [*_snakemake(), *options, *given[:position], *merged, *given[position + 1 :]]


def run_doctor(arguments: Sequence[str]) -> NoReturn:
    """Replace this process by the doctor of the executor plugin, a distribution of its own that mem does not import."""
    doctor = f"import sys; from {_DOCTOR} import main; sys.exit(main(program='mem doctor'))"
    os.execv(sys.executable, [sys.executable, "-P", "-c", doctor, *arguments])


def environment_of_jobs(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with which jobs find the command `mem` of this installation, and no other one.

    Rules call `mem`. Without an activated virtual environment, it is not on the path.
    """
    folder = Path(sys.executable).parent
    path = environment.get("PATH", os.defpath)
    found = shutil.which("mem", path=path)
    if (folder / "mem").is_file() and (found is None or Path(found) != folder / "mem"):
        path = os.pathsep.join([str(folder), path])
    return {**environment, "PATH": path}


def _snakemake() -> list[str]:
    """Return the first words of the command: the script that belongs to this Python."""
    script = Path(sys.executable).with_name("snakemake")
    return [str(script)] if script.is_file() else [sys.executable, "-P", "-m", "snakemake"]


def _position_of_config(arguments: Sequence[str]) -> int | None:
    """Return the position of the last option --config, or None."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    found = [i for i in range(end) if _CONFIG.fullmatch(arguments[i])]
    return found[-1] if found else None


def _as_config_value(text: str) -> str:
    """Return the value that Snakemake reads as a text: it reads values as YAML, where ` #` starts a comment."""
    import yaml

    with contextlib.suppress(yaml.YAMLError):  # Snakemake uses such a value as it is
        if yaml.load(text, Loader=yaml.BaseLoader) != text:
            return f" {json.dumps(text)} "  # Snakemake removes quotes at the ends of a value; spaces protect them
    return text


def _with_profiles(arguments: Sequence[str]) -> list[str]:
    """Replace the names of profiles that the current folder lacks by the folders that are delivered with mem."""
    given, after_option = list[str](), False
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if option == "--profile" and equals:
            given.append(f"{option}={_profile(value)}")
        else:
            given.append(_profile(argument) if after_option else argument)
        after_option = argument == "--profile"
    return given


def _profile(name: str) -> str:
    return name if name not in PROFILES or Path(name, "config.yaml").is_file() else str(workflow_folder() / name)
