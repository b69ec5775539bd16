"""Load a study from YAML files and overrides."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mem.config.layers import ConfigLayer, merge_layers
from mem.config.messages import KeyPath, describe_error, suggestion
from mem.config.study import Study
from mem.config.study_names import find_study, relative_to_working_folder, study_folders
from mem.config.yaml_files import is_null, read_yaml
from mem.errors import UserError

__all__ = ["load_study", "study_files"]

_MAX_BYTES = 10_000_000
"""Maximum size of a study file."""
_SHOWN_ERRORS = 100
"""Maximum number of errors in a message."""


def load_study(files: Sequence[str | Path], overrides: Mapping[str, Any] | None = None) -> Study:
    """Load a study from a YAML file, and merge additional files and `overrides` over it.

    A file with `extends: OTHER.yaml` is merged over OTHER.yaml. The path is relative to the folder of the extending
    file.

    Raises:
        UserError: A file is missing or is not valid YAML, or a setting is unknown, missing or invalid. The message
            lists all errors with file, line, key, allowed values, and the most similar valid name.
    """
    if not files:
        raise UserError("No study was specified. Pass a YAML file, for example config/digits_lt.yaml")
    files = [relative_to_working_folder(Path(file)) for file in files]
    layers = [layer for file in files for layer in _read_with_bases(file)]
    if overrides:
        layers.append(_layer_of_overrides(overrides, "--config"))
    merged = merge_layers(layers)
    try:
        return Study.model_validate(merged.values)
    except ValidationError as error:
        errors = error.errors()
        lines = [
            describe_error(detail, merged.values, merged.locations, str(files[0])) for detail in errors[:_SHOWN_ERRORS]
        ]
        if len(errors) > _SHOWN_ERRORS:
            lines.append(f"and {len(errors) - _SHOWN_ERRORS:,} more errors")
        lines += [
            str(section)
            for path, section in merged.replaced.items()
            if any(detail["type"] == "missing" and detail["loc"][: len(path)] == path for detail in errors)
        ]
        raise UserError("\n".join(lines)) from None


def study_files(
    config: Mapping[str, Any], configfiles: Sequence[Path], folder: Path
) -> tuple[list[Path], dict[str, Any]]:
    """Return the arguments for `load_study` that correspond to the given Snakemake options.

    Args:
        config: Values of `--config`. `study` is the path or the name of a study (see `find_study`). All other values
            override settings.
        configfiles: Files of `--configfile`: a study, unless `config` specifies one, and files to merge over it.
        folder: Folder of the studies that are delivered with mem. The default study is `digits_lt`.

    Raises:
        UserError: There is no study of this name.
    """
    overrides = {key: _with_nulls(value) for key, value in config.items()}
    name = overrides.pop("study", None)
    if name is None and configfiles:
        return list(configfiles), overrides
    return [find_study(str(name or "digits_lt"), study_folders(folder)), *configfiles], overrides


def _with_nulls(value: Any) -> Any:
    """Replace the text `null` with None at every level.

    Snakemake parses `a=3` as a number and `a={...}` as a mapping, but passes `null` as text, and every value inside a
    mapping or list as text. The schema converts texts to numbers and to true or false, but not to null.
    """
    if isinstance(value, Mapping):
        return {key: _with_nulls(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_with_nulls(inner) for inner in value]
    return None if isinstance(value, str) and is_null(value) else value


def _read_with_bases(path: Path, extending: tuple[Path, ...] = ()) -> list[ConfigLayer]:
    """Return the layers of all files that a file extends, base first, followed by the file's layer."""
    layer = _read_file(path)
    base_name = layer.values.pop("extends", None)
    if base_name is None:
        return [layer]
    location = layer.locations[("extends",)]
    if not isinstance(base_name, str):
        raise UserError(f"{location}: `extends` is {base_name!r}; expected the path of one YAML file")
    base = Path(os.path.normpath(path.parent / base_name))
    if base in (*extending, path):
        chain = " > ".join(str(file) for file in (*extending, path, base))
        raise UserError(f"{location}: `extends` is circular: {chain}")
    if not base.is_file():
        available = [str(file.relative_to(path.parent)) for file in sorted(path.parent.glob("*.yaml"))]
        raise UserError(
            f"{location}: `extends` refers to {base}, which does not exist{suggestion(base_name, available)}"
        )
    return [*_read_with_bases(base, (*extending, path)), layer]


def _read_file(path: Path) -> ConfigLayer:
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise UserError(f"{path}: this file has more than {_MAX_BYTES:,} bytes. A study is a short YAML file.")
        text = content.decode("utf-8")
    except FileNotFoundError:
        folders = (path.parent, Path("config"))
        available = next((found for folder in folders if (found := sorted(map(str, folder.glob("*.yaml"))))), [])
        listed = (
            f" Available: {', '.join(available)}"
            if available
            else f" Relative paths start at the current folder, {Path.cwd()}. Change to the folder of the study."
        )
        raise UserError(f"{path}: no such study{suggestion(str(path), available)}{listed}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read this file as a study: {error}") from None
    return ConfigLayer(*read_yaml(text, str(path)))


def _layer_of_overrides(values: Mapping[str, Any], location: str) -> ConfigLayer:
    """Return the overrides as a layer in which every key has the same location."""
    locations: dict[KeyPath, str] = {}

    def copied(value: Any, path: KeyPath) -> Any:
        if path:
            locations[path] = location
        if isinstance(value, Mapping):
            return {key: copied(inner, (*path, key)) for key, inner in value.items()}
        return value

    return ConfigLayer(copied(values, ()), locations)
