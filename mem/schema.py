"""The JSON schema of a study, generated from `mem.config`."""

from __future__ import annotations

import json

from mem.config import Study


def study_schema() -> str:
    """The schema as text, ending in a line break; `workflow/schemas/study.schema.json` holds a copy."""
    return json.dumps(Study.model_json_schema(), indent=2, ensure_ascii=False) + "\n"
