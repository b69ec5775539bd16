"""The config reference, as a Markdown page generated from the schema: every setting, its values, its default."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mem.config.json_schema import study_schema

Schema = Mapping[str, Any]

_BOUNDS = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
_TYPES = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}


def reference() -> str:
    """The page: the study first, then every section in the order in which the study mentions it."""
    schema = json.loads(study_schema())
    sections = schema["$defs"]
    lines = [
        "# Every setting",
        "",
        "Generated from the schema (`mem.config`). A setting without a default must be given: a recipe reads like a "
        "paper's table. Unknown settings are refused with the nearest valid name; "
        "`mem config --check FILE` checks a study.",
        "",
        "## The study",
        "",
        *_table(schema),
    ]
    for name in _in_order(schema, sections):
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
        return "as there" if value else "none"
    return f"`{json.dumps(value)}`"


def words(value: Schema) -> str:
    """The values that a setting can have, in words; sections are links."""
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


def _in_order(value: Any, sections: Schema, seen: dict[str, None] | None = None) -> list[str]:
    """Names of the sections that a schema mentions, and of those that these mention; each once."""
    seen = {} if seen is None else seen
    if isinstance(value, dict):
        ref = value.get("$ref")
        if isinstance(ref, str) and (name := ref.rsplit("/", 1)[1]) not in seen:
            seen[name] = None
            _in_order(sections[name], sections, seen)
        for key, inner in value.items():
            if key not in ("$defs", "discriminator"):
                _in_order(inner, sections, seen)
    elif isinstance(value, list):
        for inner in value:
            _in_order(inner, sections, seen)
    return list(seen)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
