"""YAML files with the location of every key, and errors that say how to correct the file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from mem.config.messages import KeyPath
from mem.errors import UserError

_MERGE_TAG = "tag:yaml.org,2002:merge"
"""Tag of the YAML merge key `<<`."""
_MAX_VALUES = 100_000
"""Maximum number of values in a file, where a value counts again each time that an alias (`*name`) refers to it."""
_MAX_DEPTH = 100
"""Maximum depth of nested values."""
_MAX_KEY_CHARACTERS = 200
_CORRECTIONS = (
    (r"character '\\t'", "a tab is not allowed here. Indent with spaces."),
    (r"mapping values are not allowed", "`:` is not allowed here. Check the indentation of this line and of the line "
     "above, and put text that contains `: ` in quotes."),
    (r"character '(.)' that cannot start", r"a value cannot start with `\1`. Put it in quotes."),
    (r"unexpected end of stream", "a quote is not closed. Add the closing quote."),
    (r"expected ',' or '([\]}])'", r"expected `,` or `\1`. Check that the list or mapping is closed, and separate its "
     "values with commas."),
    (r"expected <block end>", "this line does not continue the block above. Give all settings of a section the same "
     "indentation."),
    (r"could not find expected ':'", "expected `:` and a value after the name of a setting."),
    (r"unknown escape character", "a text in double quotes contains an unknown escape sequence. Write `\\\\\\\\` for a "
     "backslash, or use single quotes."),
    (r"undefined alias '(.*)'", r"no value has the anchor `&\1`. Define it above this line."),
    (r"constructor for the tag '(.*)'", r"the tag `\1` is not supported. Remove it, or put the value in quotes."),
    (r"another document", "`---` starts a second study. Use one file per study."),
    (r"for merging", "`<<` requires a mapping, or a list of mappings. Refer to an anchor, as in `<<: *name`."),
    (r"<document start>", "there is text after the end of the study. Delete it, or check the brackets above."),
    (r"chomping or indentation", "text that follows `|` or `>` must start on the next line."),
    (r"unhashable|simple key", "a key must be plain text."),
)  # fmt: skip
"""Regular expressions for PyYAML's messages, and what to say instead."""
_TOO_DEEP = f"values are nested more than {_MAX_DEPTH} levels deep. Correct the file."


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML loader that rejects keys that are not text or numbers, and duplicate keys, which PyYAML accepts."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first_lines: dict[str, int] = {}
        for key, _ in node.value:
            if key.tag == _MERGE_TAG:
                continue
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "found unhashable key", key.start_mark)
            if key.value in first_lines:
                problem = f"duplicate key `{key.value}`, first defined in line {first_lines[key.value]}"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            first_lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:  # an impossible date, or a number with thousands of digits
            problem = f"`{str(node.value)[:20]}` cannot be read as a value: {error}. Correct it, or put it in quotes."
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None


def read_yaml(text: str, file: str) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    """Return the mapping in a YAML text, and `file:line` of each of its keys and list items.

    Raises:
        UserError: The text is not valid YAML, or not a mapping. The message contains the line.
    """
    try:
        loader = _UniqueKeyLoader(text)
        root = loader.get_single_node()
        locations: dict[KeyPath, str] = {}
        if root is not None:
            _check_size(root, {})
            _add_locations(root, (), file, locations)
        values = None if root is None else loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{file}{line}: invalid YAML: {_describe(error)}") from None
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise UserError(f"{file}:{line}: invalid YAML: a control character is not allowed. Delete it.") from None
    except RecursionError:
        raise UserError(f"{file}: invalid YAML: {_TOO_DEEP}") from None
    if not isinstance(values, dict):
        raise UserError(f"{file}: a study must be a mapping of settings, but this file contains {_yaml_type(values)}")
    return values, locations


def is_null(text: str) -> bool:
    """Return whether YAML reads a text as the null value. An empty text does not count."""
    return text in ("null", "Null", "NULL", "~")


def _describe(error: yaml.MarkedYAMLError) -> str:
    problem = str(error.problem or error.context)
    start = error.context_mark
    opened = ""
    if start is not None and error.problem_mark is not None and start.line != error.problem_mark.line:
        opened = f" (The block or value starts in line {start.line + 1}.)"
    for pattern, correction in _CORRECTIONS:
        if found := re.search(pattern, problem):
            return found.expand(correction) + opened
    return problem


def _yaml_type(value: Any) -> str:
    if value is None:
        return "nothing"
    return "a list" if isinstance(value, list) else f"a value of type {type(value).__name__}"


def _check_size(node: yaml.Node, seen: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Return the number of values in a node, with all aliases replaced, and the depth of the node.

    Args:
        node: The node.
        seen: Results by the identity of the node. None means that the node is being counted, so it contains itself.

    Raises:
        yaml.constructor.ConstructorError: There are too many values, they are nested too deeply, or a key is too long.
    """
    if id(node) in seen:
        if (known := seen[id(node)]) is None:
            raise _too_large(node, "a value contains itself (`&name`, `*name`). Remove the alias.")
        return known
    seen[id(node)] = None
    values, depth = 1, 0
    for inner in _inner_nodes(node):
        inner_values, inner_depth = _check_size(inner, seen)
        values, depth = values + inner_values, max(depth, inner_depth)
        if values > _MAX_VALUES:
            raise _too_large(
                inner,
                f"there are more than {_MAX_VALUES:,} values. Aliases (`*name`) repeat values: use fewer of them.",
            )
    if depth >= _MAX_DEPTH:
        raise _too_large(node, _TOO_DEEP)
    seen[id(node)] = values, depth + 1
    return values, depth + 1


def _inner_nodes(node: yaml.Node) -> Iterator[yaml.Node]:
    """Yield the items of a list, or the keys and values of a mapping."""
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and len(key.value) > _MAX_KEY_CHARACTERS:
                raise _too_large(key, f"a key has more than {_MAX_KEY_CHARACTERS} characters. Shorten it.")
            yield key
            yield value


def _too_large(node: yaml.Node, problem: str) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _add_locations(node: yaml.Node | None, path: KeyPath, file: str, locations: dict[KeyPath, str]) -> None:
    """Add `file:line` of every key and list item below a node. A mapping's keys override keys merged with `<<`."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.tag == _MERGE_TAG:
                for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    _add_locations(merged, path, file, locations)
        for key, value in node.value:
            if key.tag != _MERGE_TAG and isinstance(key, yaml.ScalarNode):
                locations[(*path, key.value)] = f"{file}:{key.start_mark.line + 1}"
                _add_locations(value, (*path, key.value), file, locations)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            locations[(*path, i)] = f"{file}:{value.start_mark.line + 1}"
            _add_locations(value, (*path, i), file, locations)
