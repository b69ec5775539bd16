"""The settings reference: a Markdown page, generated from the schema, with the values and defaults of all settings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mem.config.json_schema import study_schema

Schema = Mapping[str, Any]

_BOUNDS = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
_TYPES = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}


def reference() -> str:
    """Return the page: the settings of a study, followed by all sections in the order of their first mention."""
    schema = json.loads(study_schema())
    sections = schema["$defs"]
    lines = [
        "# Every setting",
        "",
        "This page is generated from the schema (`mem.config`). A setting without a default is required. An "
        "unknown setting is an error, and the message suggests the nearest valid name. `mem config --check FILE` "
        "validates a study.",
        "",
        "## The study",
        "",
        *_table(schema),
    ]
    for name in _mentioned(schema, sections):
        section = sections[name]
        lines += ["", f"## {name}", "", section.get("description", "").strip(), "", *_table(section)]
    return "\n".join(lines) + "\n"


def _table(section: Schema) -> Iterator[str]:
    yield "| setting | value | default | meaning |"
    yield "|---|---|---|---|"
    required = section.get("required", [])
    for name, value in section["properties"].items():
        default = "" if name in required or "default" not in value else _default(value["default"])
        meaning = " ".join(value.get("description", "").split())
        yield "| " + " | ".join(_cell(text) for text in (f"`{name}`", words(value), default, meaning)) + " |"


def _default(value: Any) -> str:
    if isinstance(value, dict):
        return "see section" if value else "none"
    return f"`{json.dumps(value)}`"


def words(value: Schema) -> str:
    """Describe the allowed values of a setting in words. Sections become links."""
    if "$ref" in value:
        name = value["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "const" in value:
        return f"`{json.dumps(value['const'])}`"
    if "enum" in value:
        return " or ".join(f"`{choice}`" for choice in value["enum"])
    for several in ("anyOf", "oneOf"):
        if several in value:
            return " or ".join(dict.fromkeys(words(choice) for choice in value[several]))
    if value.get("type") == "array":
        if "prefixItems" in value:
            return "[" + ", ".join(words(item) for item in value["prefixItems"]) + "]"
        return f"list of: {words(value['items'])}"
    if value.get("type") == "object":
        inner = [*value.get("patternProperties", {}).values(), value.get("additionalProperties")]
        kinds = dict.fromkeys(words(item) for item in inner if isinstance(item, dict))
        return f"by name: {' or '.join(kinds)}" if kinds else "mapping"
    bounds = [f"{sign} {value[key]:g}" for key, sign in _BOUNDS.items() if key in value]
    return ", ".join([_TYPES.get(value.get("type", ""), "anything"), *bounds])


def _mentioned(value: Any, sections: Schema, seen: dict[str, None] | None = None) -> list[str]:
    """Return the distinct names of all sections that a schema refers to, directly or through other sections."""
    seen = {} if seen is None else seen
    if isinstance(value, dict):
        ref = value.get("$ref")
        if isinstance(ref, str) and (name := ref.rsplit("/", 1)[1]) not in seen:
            seen[name] = None
            _mentioned(sections[name], sections, seen)
        for key, inner in value.items():
            if key not in ("$defs", "discriminator"):
                _mentioned(inner, sections, seen)
    elif isinstance(value, list):
        for inner in value:
            _mentioned(inner, sections, seen)
    return list(seen)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
