"""Reading a study: YAML files and overrides in, a checked `Study` or a message with file, line and key out."""

from __future__ import annotations

import difflib
import os
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mem.config import Study
from mem.errors import UserError

KeyPath = tuple[str | int, ...]
"""Where a value stands in a nested mapping: keys and list positions from the top."""


@dataclass(frozen=True)
class ConfigLayer:
    """Values of a study, and where each was written."""

    values: dict[str, Any]
    places: dict[KeyPath, str] = field(default_factory=dict)
    """`file:line` of each key, for messages."""


def load_study(files: Sequence[str | Path], overrides: Mapping[str, Any] | None = None) -> Study:
    """Read a study from a YAML file, laying further files and `overrides` over it.

    A file that says `extends: OTHER.yaml` is laid over that other file, whose path starts at its own folder.

    Raises:
        UserError: A file is missing or no YAML, or a setting is unknown, missing or impossible. Every fault is
            listed with file, line and key, what is allowed, and the nearest valid name.
    """
    if not files:
        raise UserError("No study given: name a YAML file, for example config/digits_lt.yaml")
    files = [_shortened(Path(file)) for file in files]
    sources = [source for file in files for source in _with_bases(file)]
    if overrides:
        sources.append(_from_mapping(overrides, "--config"))
    values: dict[str, Any] = {}
    places: dict[KeyPath, str] = {}
    for source in sources:
        values = _overlaid(values, source.values)
        places |= source.places
    return parse_study(values, places, str(files[0]))


def study_files(
    given: Mapping[str, Any], configfiles: Sequence[Path], folder: Path
) -> tuple[list[Path], dict[str, Any]]:
    """What `load_study` should read for Snakemake's options.

    Args:
        given: `--config`: `study` names a YAML file, or one in `folder`; all else overrides settings.
        configfiles: `--configfile`: a study, and files laid over it.
        folder: The workflow's studies; `digits_lt` is run where none is named.
    """
    # Snakemake reads `a=3` as a number and `a={...}` as a mapping, but `a=null` as text.
    overrides = {key: yaml.safe_load(value) if isinstance(value, str) else value for key, value in given.items()}
    name = overrides.pop("study", None)
    if name is None and configfiles:
        return list(configfiles), overrides
    path = Path(str(name or "digits_lt"))
    if not path.exists() and path.suffix not in (".yaml", ".yml"):
        path = folder / f"{path}.yaml"
    return [path, *configfiles], overrides


def parse_study(values: Mapping[str, Any], places: Mapping[KeyPath, str], name: str) -> Study:
    """Check a study given as nested mappings; `places` and `name` say in messages where it was written."""
    try:
        return Study.model_validate(values)
    except ValidationError as error:
        lines = [_message(detail, values, places, name) for detail in error.errors()]
        raise UserError("\n".join(lines)) from None


def _shortened(path: Path) -> Path:
    """Relative to the working folder where it lies inside."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


# --- reading ------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, which YAML's own loader lets pass."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"key `{key.value}` stands twice, first in line {seen[key.value]}",
                    key.start_mark,
                )
            seen[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def _with_bases(path: Path, above: tuple[Path, ...] = ()) -> list[ConfigLayer]:
    """The files that a file extends, the lowest first, and the file itself."""
    source = _read(path)
    base = source.values.pop("extends", None)
    if base is None:
        return [source]
    place = source.places[("extends",)]
    if not isinstance(base, str):
        raise UserError(f"{place}: `extends` is {base!r}: it names one YAML file")
    below = Path(os.path.normpath(path.parent / base))
    if below in (*above, path):
        chain = " > ".join(str(file) for file in (*above, path, below))
        raise UserError(f"{place}: `extends` goes in a circle: {chain}")
    if not below.is_file():
        there = [str(file.relative_to(path.parent)) for file in sorted(path.parent.glob("*.yaml"))]
        raise UserError(f"{place}: `extends` names {below}, which is not there{_nearest(base, there)}")
    return [*_with_bases(below, (*above, path)), source]


def _read(path: Path) -> ConfigLayer:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        there = sorted(str(p) for p in path.parent.glob("*.yaml")) or sorted(map(str, Path("config").glob("*.yaml")))
        hint = f" There are: {', '.join(there)}" if there else ""
        raise UserError(f"{path}: no such study{_nearest(str(path), there)}{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a study: {error}") from None
    try:
        values = yaml.load(text, _Loader)
        node = yaml.compose(text, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: no valid YAML: {error.problem or error.context}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: a study is a mapping of settings, this is {type(values).__name__}")
    places: dict[KeyPath, str] = {}
    _mark(node, (), str(path), places)
    return ConfigLayer(values, places)


def _mark(node: yaml.Node | None, at: KeyPath, file: str, places: dict[KeyPath, str]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    _mark(part, at, file, places)
        for key, value in node.value:
            if key.tag != "tag:yaml.org,2002:merge":
                places[(*at, key.value)] = f"{file}:{key.start_mark.line + 1}"
                _mark(value, (*at, key.value), file, places)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            places[(*at, i)] = f"{file}:{value.start_mark.line + 1}"
            _mark(value, (*at, i), file, places)


def _from_mapping(values: Mapping[str, Any], origin: str) -> ConfigLayer:
    places: dict[KeyPath, str] = {}

    def walk(value: Any, at: KeyPath) -> Any:
        if at:
            places[at] = origin
        if isinstance(value, Mapping):
            return {key: walk(inner, (*at, key)) for key, inner in value.items()}
        return value

    return ConfigLayer(walk(values, ()), places)


def _overlaid(base: Any, over: Any) -> Any:
    """Mappings are merged, everything else is replaced."""
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        return {key: _overlaid(base.get(key), over[key]) if key in over else base[key] for key in {**base, **over}}
    return over


# --- messages -----------------------------------------------------------------------------------------


def _message(detail: ErrorDetails, values: Any, places: Mapping[KeyPath, str], name: str) -> str:
    """One line for one fault: place, key, what is wrong, what is allowed."""
    at, model = _resolve(detail["loc"], values)
    place = next((places[at[:n]] for n in range(len(at), 0, -1) if at[:n] in places), name)
    key = ".".join(map(str, at))
    kind, given = detail["type"], detail.get("input")
    if kind == "extra_forbidden" and model is not None:
        allowed = list(model.model_fields)
        return f"{place}: unknown key `{key}`{_nearest(str(at[-1]), allowed)} Allowed here: {', '.join(allowed)}"
    if kind == "missing":
        return f"{place}: `{key}` is missing{_documented(model, at)}"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        context = detail.get("ctx", {})
        tags = context.get("expected_tags", "").replace("'", "")
        field_name = str(context.get("discriminator", "")).strip("'")
        tag = context.get("tag")
        if kind == "union_tag_not_found":
            return f"{place}: `{key}.{field_name}` is missing; it is one of: {tags}"
        place = places.get((*at, field_name), place)
        near = _nearest(str(tag), [t.strip() for t in tags.split(",")])
        return f"{place}: `{key}.{field_name}` is `{tag}`{near} It is one of: {tags}"
    message = detail["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if kind == "value_error":
        return f"{place}: `{key}`: {message}" if key else f"{place}: {message}"
    return f"{place}: `{key}` is {given!r}: {message}"


def _resolve(loc: tuple[int | str, ...], values: Any) -> tuple[KeyPath, type[BaseModel] | None]:
    """Pydantic's location without the tags of unions, and the model that holds its last key."""
    at: list[str | int] = []
    model: type[BaseModel] | None = Study
    holder: type[BaseModel] | None = Study
    annotation: Any = Study
    for i, step in enumerate(loc):
        tagged = _tagged(annotation, step)
        if tagged is not None and not (isinstance(values, Mapping) and step in values and i == len(loc) - 1):
            annotation = model = tagged
            continue
        at.append(step)
        holder = model
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            info = annotation.model_fields.get(str(step))
            annotation = _discriminated(info.annotation) if info else None
        else:
            arguments = typing.get_args(annotation)
            annotation = _discriminated(arguments[-1]) if arguments else None
        model = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
        if isinstance(values, Mapping):
            values = values.get(step)
        elif isinstance(values, Sequence) and isinstance(step, int) and step < len(values):
            values = values[step]
    return tuple(at), holder


def _discriminated(annotation: Any) -> Any:
    """The annotation without `Annotated` and `None`, where one type is left."""
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    parts = [part for part in typing.get_args(annotation) if part is not type(None)]
    is_union = type(None) in typing.get_args(annotation)
    return parts[0] if is_union and len(parts) == 1 else annotation


def _tagged(annotation: Any, tag: str | int) -> type[BaseModel] | None:
    """The member of a discriminated union that has the tag."""
    for member in typing.get_args(annotation):
        if not (isinstance(member, type) and issubclass(member, BaseModel)):
            continue
        for info in member.model_fields.values():
            if typing.get_origin(info.annotation) is typing.Literal and typing.get_args(info.annotation) == (tag,):
                return member
    return None


def _nearest(given: str, allowed: Sequence[str]) -> str:
    near = difflib.get_close_matches(given, allowed, n=1)
    return f"; did you mean `{near[0]}`?" if near else "."


def _documented(model: type[BaseModel] | None, at: KeyPath) -> str:
    info = model.model_fields.get(str(at[-1])) if model and at else None
    return f": {' '.join(info.description.split())}" if info and info.description else ""
