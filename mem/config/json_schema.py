"""The JSON schema of a study, generated from `mem.config`."""

from __future__ import annotations

import json

from mem.config import Study

EXTENDS = {
    "description": "Path of the base study, relative to this file's folder. This file contains only the differences.",
    "title": "Extends",
    "type": "string",
}
"""Schema for the key `extends`, which `mem.config.load` removes before validation."""


def study_schema() -> str:
    """Return the schema as JSON text with a final newline. `workflow/schemas/study.schema.json` contains a copy."""
    schema = Study.model_json_schema()
    schema["properties"] = {"extends": EXTENDS, **schema["properties"]}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
