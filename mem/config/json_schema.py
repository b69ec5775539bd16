"""The JSON schema of a study, generated from `mem.config`."""

from __future__ import annotations

import json

from mem.config import Study

EXTENDS = {
    "description": "Another study, from this file's folder; this file says what differs.",
    "title": "Extends",
    "type": "string",
}
"""What `mem.config.load` reads before the schema is applied."""


def study_schema() -> str:
    """The schema as text, ending in a line break; `workflow/schemas/study.schema.json` holds a copy."""
    schema = Study.model_json_schema()
    schema["properties"] = {"extends": EXTENDS, **schema["properties"]}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
