"""Names that timm knows, checked without importing timm where this is possible."""

from __future__ import annotations

import difflib
import importlib.util
from pathlib import Path


def check_architecture(model: str) -> None:
    """Check that timm has an architecture of this name. Without timm in the environment, nothing is checked.

    Raises:
        ValueError: The name is unknown.
    """
    try:
        if is_registered(model):
            return
        import timm  # takes seconds, and is only needed for deprecated and unknown names
    except ImportError:
        return  # a workflow process outside the container has no timm; the stages check the name
    if not timm.is_model(model):
        raise ValueError(f"timm has no model {model}{_similar(model, timm.list_models())}")


def check_timm_tag(name: str) -> None:
    """Check that timm knows an architecture and a tag. Without timm in the environment, nothing is checked.

    Raises:
        ValueError: The name is unknown.
    """
    try:
        if _is_in_timms_sources(*(f"{quote}{name}{end}{quote}" for quote in "'\"" for end in ("", "*"))):
            return
        import timm
        from timm.models import list_pretrained  # the module timm does not export it
    except ImportError:
        return
    known = list_pretrained()
    if name not in known:
        architecture = name.partition(".")[0]
        tags = [each for each in known if each.startswith(f"{architecture}.")]
        if tags:
            raise ValueError(f"timm has no weights {name}. Weights for this architecture: {', '.join(tags)}")
        if timm.is_model(architecture):
            raise ValueError(f"timm has no weights {name}, and no other weights for this architecture")
        raise ValueError(f"timm has no weights {name}{_similar(name, known)}")


def is_registered(model: str) -> bool:
    """Return whether one of timm's modules registers an architecture of this name, without importing timm."""
    return _is_in_timms_sources(f"@register_model\ndef {model}(")


def _similar(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3)
    return f"; did you mean {', '.join(near)}?" if near else ""


def _is_in_timms_sources(*texts: str) -> bool:
    """Return whether one of timm's modules of networks contains one of the texts, without importing timm."""
    package = importlib.util.find_spec("timm")
    wanted = [text.encode(errors="replace") for text in texts]
    folders = (package.submodule_search_locations if package else None) or []
    files = (file for folder in folders for file in Path(folder, "models").glob("*.py"))
    return any(any(text in content for text in wanted) for content in (file.read_bytes() for file in files))
