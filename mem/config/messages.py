"""Error messages for invalid studies. Each message names the file, the line, the key and the allowed values."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from mem.config.study import Study

KeyPath = tuple[str | int, ...]
"""Path of a value in nested mappings and lists: keys and indices, outermost first."""


_EXPECTED = {
    "bool_parsing": "expected true or false",
    "bool_type": "expected true or false",
    "dict_type": "expected a mapping of names to settings",
    "invalid_key": "expected text as a key; put it in quotes",
    "model_attributes_type": "expected a mapping of settings",
    "model_type": "expected a mapping of settings",
    "string_pattern_mismatch": "expected letters, digits, `_` and `.`, starting with a letter or a digit",
    "string_type": "expected text; put it in quotes",
    "tuple_type": "expected a list",
}
"""What was expected, by pydantic's error type, for the types whose message names Python types or patterns."""
_NAMED_KEY = re.compile(r"([\w.]+): ")
"""A key at the start of a message."""
_KEY = "[key]"
"""Last part of pydantic's location of an error in the key of a mapping instead of its value."""


def describe_error(
    error: ErrorDetails,
    values: Any,
    locations: Mapping[KeyPath, str],
    name: str,
    root: type[BaseModel] = Study,
) -> str:
    """Describe a validation error in one line.

    Args:
        error: The error as reported by pydantic.
        values: The values that were validated.
        locations: `file:line` of each key.
        name: Text that replaces the location if the key has none.
        root: The model of `values`.
    """
    in_key = error["loc"][-1:] == (_KEY,)
    path, model, annotation = _resolve(error["loc"][:-1] if in_key else error["loc"], values, root)
    location = next((locations[path[:n]] for n in range(len(path), 0, -1) if path[:n] in locations), name)
    key = ".".join(map(str, path))
    kind = error["type"]
    if in_key or kind == "invalid_key":
        return f"{location}: `{key}` has an invalid name: {_expected(error)}"
    if kind == "extra_forbidden" and model is not None:
        allowed = list(model.model_fields)
        return f"{location}: unknown key `{key}`{suggestion(str(path[-1]), allowed)} Allowed here: {', '.join(allowed)}"
    if kind == "missing" and isinstance(path[-1], int):
        return f"{location}: `{'.'.join(map(str, path[:-1]))}` has too few values: value {path[-1] + 1} is missing"
    if kind == "missing":
        return f"{location}: `{key}` is missing{_description(model, path)}"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _describe_tag_error(error, path, locations, location, annotation)
    message = _expected(error)
    if kind == "value_error":
        location = _location_of_named_key(key, message, locations) or location
        return f"{location}: `{key}`: {message}" if key else f"{location}: {message}"
    return f"{location}: `{key}` is {_shown(error.get('input'))}: {message}"


def _location_of_named_key(section: str, message: str, locations: Mapping[KeyPath, str]) -> str | None:
    """Return the location of the key that a check of a section names at the start of its message, or of its parent.

    Args:
        section: Key of the section; empty for the study.
        message: The message, for example `heads.mem.finetuning: this study has no variant`.
        locations: `file:line` of each key.
    """
    named = _NAMED_KEY.match(message)
    if named is None:
        return None
    dotted = f"{section}.{named[1]}." if section else f"{named[1]}."
    # A name may contain dots, so that the parts of the key cannot be told from its text.
    found = [path for path in locations if dotted.startswith(".".join(map(str, path)) + ".")]
    return locations[max(found, key=len)] if found else None


def _expected(error: ErrorDetails) -> str:
    """Return the message of an error, in the terms of YAML."""
    kind, given = error["type"], error.get("input")
    if kind == "too_long":
        return f"expected at most {error['ctx']['max_length']} values" if "ctx" in error else "too many values"
    if kind == "tuple_type" and isinstance(given, int | float | str):
        return f"expected a list, for example [{given}]"
    message = _EXPECTED.get(kind) or error["msg"].removeprefix("Value error, ")
    return message[0].lower() + message[1:]


def _shown(value: Any) -> str:
    """Return a value as a study contains it, shortened if it is long."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def suggestion(given: str, allowed: Sequence[str]) -> str:
    """Return a suggestion that names the most similar allowed name, or a full stop if no name is similar."""
    similar = difflib.get_close_matches(given, allowed, n=1)
    return f"; did you mean `{similar[0]}`?" if similar else "."


def _describe_tag_error(
    error: ErrorDetails, path: KeyPath, locations: Mapping[KeyPath, str], location: str, annotation: Any
) -> str:
    """Describe a missing or unknown tag of a discriminated union, such as `method` of a head."""
    tag_field = str(error.get("ctx", {}).get("discriminator", "")).strip("'")
    tags = _tags(annotation, tag_field)
    key = ".".join(map(str, (*path, tag_field)))
    if error["type"] == "union_tag_not_found":
        return f"{location}: `{key}` is missing; expected one of: {', '.join(tags)}"
    tag = _shown(error.get("ctx", {}).get("tag"))
    shown = "null" if tag == "'None'" else tag.strip("'")
    location = locations.get((*path, tag_field), location)
    return f"{location}: `{key}` is `{shown}`{suggestion(shown, tags)} Expected one of: {', '.join(tags)}"


def _tags(annotation: Any, field: str) -> list[str]:
    """Return the values of the field `field` that select the members of a discriminated union."""
    members = typing.get_args(annotation)
    return [tag for member in members for tag in typing.get_args(member.model_fields[field].annotation)]


def _resolve(
    loc: tuple[int | str, ...], values: Any, root: type[BaseModel]
) -> tuple[KeyPath, type[BaseModel] | None, Any]:
    """Resolve pydantic's location of an error.

    Returns:
        The location without union tags, the model that contains the last key of the location, and the annotation of
        its value.
    """
    path: list[str | int] = []
    model: type[BaseModel] | None = root
    parent: type[BaseModel] | None = root
    annotation: Any = root
    for i, step in enumerate(loc):
        member = _union_member(annotation, step)
        if member is not None and not (isinstance(values, Mapping) and step in values and i == len(loc) - 1):
            annotation = model = member
            continue
        path.append(step)
        parent = model
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            info = annotation.model_fields.get(str(step))
            annotation = _plain_annotation(info.annotation) if info else None
        else:
            arguments = typing.get_args(annotation)
            annotation = _plain_annotation(arguments[-1]) if arguments else None
        model = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
        if isinstance(values, Mapping):
            values = values.get(step)
        elif isinstance(values, Sequence) and isinstance(step, int) and step < len(values):
            values = values[step]
    return tuple(path), parent, annotation


def _plain_annotation(annotation: Any) -> Any:
    """Remove `Annotated`, and remove `None` from a union with one other type, which can be annotated itself."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _plain_annotation(typing.get_args(annotation)[0])
    parts = [part for part in typing.get_args(annotation) if part is not type(None)]
    is_union = type(None) in typing.get_args(annotation)
    return _plain_annotation(parts[0]) if is_union and len(parts) == 1 else annotation


def _union_member(annotation: Any, tag: str | int) -> type[BaseModel] | None:
    """Return the member of a discriminated union with the given tag."""
    for member in typing.get_args(annotation):
        if not (isinstance(member, type) and issubclass(member, BaseModel)):
            continue
        for info in member.model_fields.values():
            if typing.get_origin(info.annotation) is typing.Literal and typing.get_args(info.annotation) == (tag,):
                return member
    return None


def _description(model: type[BaseModel] | None, path: KeyPath) -> str:
    info = model.model_fields.get(str(path[-1])) if model and path else None
    return f": {' '.join(info.description.split())}" if info and info.description else ""
