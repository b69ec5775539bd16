"""Load a study from YAML files and overrides."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mem.config.messages import KeyPath, describe_error, suggestion
from mem.config.study import Study
from mem.errors import UserError

_MERGE_TAG = "tag:yaml.org,2002:merge"
"""Tag of the YAML merge key `<<`."""


@dataclass(frozen=True)
class ConfigLayer:
    """The values from one file or from the overrides, with their locations."""

    values: dict[str, Any]
    locations: dict[KeyPath, str] = field(default_factory=dict)
    """Location of each key as `file:line`, for error messages."""


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
    files = [_relative_to_working_folder(Path(file)) for file in files]
    layers = [layer for file in files for layer in _read_with_bases(file)]
    if overrides:
        layers.append(_layer_of_overrides(overrides, "--config"))
    values: dict[str, Any] = {}
    locations: dict[KeyPath, str] = {}
    for layer in layers:
        values = deep_merge(values, layer.values)
        locations |= layer.locations
    try:
        return Study.model_validate(values)
    except ValidationError as error:
        lines = [describe_error(detail, values, locations, str(files[0])) for detail in error.errors()]
        raise UserError("\n".join(lines)) from None


def study_files(
    config: Mapping[str, Any], configfiles: Sequence[Path], folder: Path
) -> tuple[list[Path], dict[str, Any]]:
    """Return the arguments for `load_study` that correspond to the given Snakemake options.

    Args:
        config: Values of `--config`. `study` is a YAML file or the name of a YAML file in `folder`. All other values
            override settings.
        configfiles: Files of `--configfile`: a study, unless `config` specifies one, and files to merge over it.
        folder: Folder that contains the workflow's studies. The default study is `digits_lt`.
    """
    # Snakemake parses `a=3` as a number and `a={...}` as a mapping, but passes `a=null` as text.
    overrides = {key: yaml.safe_load(value) if isinstance(value, str) else value for key, value in config.items()}
    name = overrides.pop("study", None)
    if name is None and configfiles:
        return list(configfiles), overrides
    path = Path(str(name or "digits_lt"))
    if not path.exists() and path.suffix not in (".yaml", ".yml"):
        path = folder / f"{path}.yaml"
    return [path, *configfiles], overrides


def deep_merge(base: Any, over: Any) -> Any:
    """Merge nested mappings. Values of `over` take precedence. Lists are replaced, not merged."""
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        return {key: deep_merge(base.get(key), over[key]) if key in over else base[key] for key in {**base, **over}}
    return over


def _relative_to_working_folder(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


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
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        folders = (path.parent, Path("config"))
        available = next((found for folder in folders if (found := sorted(map(str, folder.glob("*.yaml"))))), [])
        listed = f" Available: {', '.join(available)}" if available else ""
        raise UserError(f"{path}: no such study{suggestion(str(path), available)}{listed}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read this file as a study: {error}") from None
    try:
        values = yaml.load(text, _UniqueKeyLoader)
        root = yaml.compose(text, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: invalid YAML: {error.problem or error.context}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: a study must be a mapping of settings, but this file contains {_yaml_type(values)}")
    locations: dict[KeyPath, str] = {}
    _add_locations(root, (), str(path), locations)
    return ConfigLayer(values, locations)


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML loader that rejects duplicate keys, which PyYAML accepts."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first_lines: dict[str, int] = {}
        for key, _ in node.value:
            if key.tag == _MERGE_TAG:
                continue
            if key.value in first_lines:
                problem = f"duplicate key `{key.value}`, first defined in line {first_lines[key.value]}"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            first_lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def _yaml_type(value: Any) -> str:
    if value is None:
        return "nothing"
    return "a list" if isinstance(value, list) else f"a value of type {type(value).__name__}"


def _add_locations(node: yaml.Node | None, path: KeyPath, file: str, locations: dict[KeyPath, str]) -> None:
    """Add `file:line` of every key and list item below a node. A mapping's keys override keys merged with `<<`."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.tag == _MERGE_TAG:
                for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    _add_locations(merged, path, file, locations)
        for key, value in node.value:
            if key.tag != _MERGE_TAG:
                locations[(*path, key.value)] = f"{file}:{key.start_mark.line + 1}"
                _add_locations(value, (*path, key.value), file, locations)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            locations[(*path, i)] = f"{file}:{value.start_mark.line + 1}"
            _add_locations(value, (*path, i), file, locations)


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
