"""The text of run configurations. A study can have thousands, so libyaml reads and writes them where PyYAML has it.

libyaml is about five times as fast as PyYAML's Python functions and gives the same results for the texts that it is
used for. Studies, which users write, are read in Python; see `mem.config.yaml_files`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_MAX_CHARACTERS = 10_000
"""Length of the longest text that libyaml reads. Thousands of nested values would exceed its stack."""
UNREADABLE = (OSError, UnicodeDecodeError, yaml.YAMLError)
"""Errors of `read_config_file`."""
_PLAIN = re.compile(r"[ -~]*")
"""Texts that libyaml and PyYAML write in the same way: printable ASCII characters in one line."""


def read_config_file(path: Path) -> Any:
    """Return the content of a configuration file.

    Raises:
        OSError: The file cannot be read.
        UnicodeDecodeError: The file is not a UTF-8 text.
        yaml.YAMLError: The text is not valid YAML. The message contains the path and the line.
    """
    with open(path, encoding="utf-8") as file:
        text = file.read()
        try:
            return _parse(text)
        except yaml.YAMLError:  # read the file again, so that the message contains its path
            file.seek(0)
            return yaml.safe_load(file)


def has_content(path: Path, content: Mapping[str, Any], ignored: frozenset[str]) -> bool:
    """Return whether a configuration file exists and has this content, except for the keys `ignored`."""
    try:
        current = _parse_once(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError):
        return False
    return isinstance(current, Mapping) and _without(current, ignored) == _without(content, ignored)


def has_other_values(path: Path, name: str, values: Any) -> bool:
    """Return whether a section of a configuration file has another value for one of the given nested values.

    Values that are only in the file or only in `values` do not count.
    """
    current = _parse_once(path.read_text(encoding="utf-8"))
    return name in current and _differ(current[name], values)


def format_config(content: Mapping[str, Any]) -> str:
    """Return the text of a configuration."""
    dumper = _Dumper if _is_plain(content) else yaml.SafeDumper
    return yaml.dump(content, Dumper=dumper, sort_keys=False, allow_unicode=True)


def _parse(text: str) -> Any:
    if len(text) > _MAX_CHARACTERS:
        return yaml.safe_load(text)
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, UnicodeEncodeError):  # libyaml rejects some texts that PyYAML reads
        return yaml.safe_load(text)


_parse_once = lru_cache(maxsize=4)(_parse)
"""Function that parses equal texts only once: most runs of a study have the same `site.yaml`."""


def _differ(old: Any, new: Any) -> bool:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return any(_differ(old[key], new[key]) for key in old.keys() & new.keys())
    return old != new


def _without(content: Mapping[str, Any], keys: frozenset[str]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in keys}


def _is_plain(value: Any) -> bool:
    """Return whether libyaml and PyYAML write a value in the same way. They write an empty key differently."""
    if isinstance(value, Mapping):
        return all(key != "" and _is_plain(key) and _is_plain(inner) for key, inner in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return not isinstance(value, str) or _PLAIN.fullmatch(value) is not None
