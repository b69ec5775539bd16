"""Weights that timm names by a tag: their repository on the hub, and the architectures that it belongs to."""

from __future__ import annotations

import functools
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from mem.errors import UserError


@dataclass(frozen=True)
class TimmWeights:
    """What timm knows about the weights of a tag, such as `vit_base_patch16_clip_224.openai`."""

    repository: str
    file: str | None
    """Name of the weights file in the repository, if it is not one of timm's usual names."""


@functools.cache
def timm_weights(tag: str) -> TimmWeights:
    """Return the repository of a timm tag. This imports timm and PyTorch, which takes seconds.

    A process without PyTorch, such as a workflow process, stays without it: another process imports timm.

    Raises:
        UserError: timm is missing, does not know the tag, or does not publish its weights on the hub.
    """
    if "torch" in sys.modules:
        return _timm_weights(tag)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_timm_weights, tag).result()


def _timm_weights(tag: str) -> TimmWeights:
    try:
        from timm.models import get_pretrained_cfg
    except ImportError:
        raise UserError(
            f"{tag} is a timm tag, but timm is not installed in this environment. Write the repository instead, for "
            f"example hf-hub:timm/{tag}, or run the command in the environment in which the stages run."
        ) from None
    try:
        cfg = get_pretrained_cfg(tag)
    except RuntimeError as error:
        raise UserError(f"{tag}: {error}") from None
    if cfg is None:
        raise UserError(f"{tag}: this version of timm has no such weights. `mem weights list PATTERN` lists its tags.")
    if not cfg.hf_hub_id:
        where = f" Download {cfg.url} and set initial.file." if isinstance(cfg.url, str) and cfg.url else ""
        raise UserError(f"{tag}: timm does not publish these weights on the hub.{where}")
    return TimmWeights(cfg.hf_hub_id, cfg.hf_hub_filename)


def tags_matching(pattern: str) -> list[tuple[str, str]]:
    """Return the timm tags that contain a text, each with its repository on the hub.

    Args:
        pattern: A part of the name, without regard to upper and lower case.
    """
    from timm.models import get_pretrained_cfg, list_pretrained

    found: list[tuple[str, str]] = []
    for tag in list_pretrained():
        cfg = get_pretrained_cfg(tag) if pattern.lower() in tag.lower() else None
        if cfg is not None and cfg.hf_hub_id:
            found.append((tag, cfg.hf_hub_id))
    return found


def is_architecture_of(architecture: str, repository: str) -> bool:
    """Return whether timm uses the weights in a repository for an architecture.

    Some repositories belong to several architectures: OpenAI's CLIP weights to one with the exact and to one with the
    fast activation function.
    """
    from timm.models import get_arch_pretrained_cfgs

    return any(cfg.hf_hub_id == repository for cfg in get_arch_pretrained_cfgs(architecture).values())


def current_name(architecture: str) -> str:
    """Return the name that timm uses for an architecture now, without a tag."""
    from timm.models import get_deprecated_models

    name = architecture.partition(".")[0]
    return (get_deprecated_models().get(name) or name).partition(".")[0]
