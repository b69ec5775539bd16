"""timm's own conversions of weights files that other projects publish.

timm converts the files of an architecture's authors when it loads them with `pretrained=True`. The functions that do so
are not public, have different names and arguments, and some are created for one architecture. They are therefore taken
from where timm passes all of them: the function that loads pretrained weights.
"""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import timm
import timm.models._builder as builder
import torch
from torch import Tensor, nn

from mem.models.weights.traced import interpolated_from, is_interpolated, sources_of

Conversion = Callable[..., Mapping[str, Tensor]]
_LOCK = threading.Lock()


@functools.lru_cache(maxsize=8)
def timm_conversion(model: str) -> Conversion | None:
    """Return the function with which timm converts weights files for an architecture, or None if there is none.

    No weights are loaded and nothing is downloaded.

    Args:
        model: Name of the architecture.
    """
    found: list[Conversion | None] = []

    def record(*_: Any, filter_fn: Conversion | None = None, **__: Any) -> None:
        found.append(filter_fn)

    with _LOCK:
        load = builder.load_pretrained
        builder.load_pretrained = record
        try:
            with torch.device("meta"):
                timm.create_model(model, pretrained=True)
        finally:
            builder.load_pretrained = load
    # A network can contain another one, such as a ViT with a ResNet as its stem. The complete network is the last.
    return found[-1] if found else None


def conversion_name(conversion: Conversion) -> str:
    """Return the module and the name of timm's function."""
    function = conversion.func if isinstance(conversion, functools.partial) else conversion
    return f"{function.__module__}.{function.__qualname__}"


def convert_with_timm(
    tensors: Mapping[str, Tensor], conversion: Conversion, networks: tuple[nn.Module, ...]
) -> dict[str, Tensor] | None:
    """Return the tensors as timm converts them, or None if the function does not accept them.

    timm interpolates tables of positions to the size of the network. mem does so for files with timm's names. So that
    the dialect of a file has no influence, the first network is used for which timm interpolates nothing.

    Args:
        tensors: Tensors of a file by name, from `traced`.
        conversion: timm's function.
        networks: The network in several image sizes. If timm interpolates for each of them, the last one is used.
    """
    converted: dict[str, Tensor] | None = None
    for network in networks:
        try:
            result = _call(conversion, dict(tensors), network)
        except Exception:  # functions for a file of another form fail in any way
            continue
        converted = {name: value for name, value in result.items() if isinstance(value, Tensor)}
        for name, value in converted.items():
            if name in tensors and _is_resized(name, value, tensors[name]):
                converted[name] = interpolated_from(value, tensors[name])
        if not any(is_interpolated(value) for value in converted.values()):
            return converted
    return converted


def _is_resized(name: str, value: Tensor, original: Tensor) -> bool:
    """Return whether a table was interpolated without PyTorch's function for it.

    timm interpolates tables of relative positions with SciPy, so that the values have no sources, or by arithmetic.
    """
    return not sources_of(value) or (name.endswith("relative_position_bias_table") and value.shape != original.shape)


def _call(conversion: Conversion, tensors: dict[str, Tensor], network: nn.Module) -> Mapping[str, Tensor]:
    with warnings.catch_warnings():  # PyTorch warns of code in timm's interpolation, which a user cannot change
        warnings.simplefilter("ignore")
        try:
            return conversion(tensors, network)
        except TypeError:  # some functions have one argument, as timm's own call of them takes into account
            return conversion(tensors)
