"""Find the tensors of a network in a file of another project: prefixes, timm's conversions, names of torchvision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mem.errors import UserError
from mem.models.backbones.timm_network import timm_network
from mem.models.weights.network_names import NetworkNames
from mem.models.weights.timm_conversion import conversion_name, convert_with_timm, timm_conversion
from mem.models.weights.torchvision_names import torchvision_names
from mem.models.weights.traced import is_interpolated, sources_of, traced, untraced

EVALUATED = ("teacher.", "encoder_q.", "base_encoder.", "target_encoder.")
"""Prefixes of the network that the authors evaluate, where a file contains two networks of the same architecture: DINO,
iBOT and DINOv2 (`teacher.backbone.`), MoCo, MoCo v3, I-JEPA."""
VISUAL = "visual."
"""Prefix of the image network in files of CLIP."""
PREFIXES = ("module.", "model.", "backbone.", "encoder.", VISUAL, *EVALUATED, "student.")
"""Prefixes under which training programs save a network that has names of its own, for which a conversion is needed.
Of two networks, the one that is evaluated comes first."""
_OPENAI = {"input_resolution", "context_length", "vocab_size"}
"""Names that only OpenAI's own files of CLIP contain."""
_QUICK_GELU = "Use the architecture of timm with `clip_quickgelu` in its name."
MAX_PARTS = 5
"""Maximum number of parts of a prefix."""


@dataclass(frozen=True)
class Mapped:
    """Tensors of a file by the names of the network."""

    tensors: Mapping[str, Tensor]
    left_over: tuple[str, ...] = ()
    """Names of the file's tensors that belong to no part of the network and are not in `tensors`."""
    how: str = ""
    """Description of the conversion. Empty if the file has the names of the network."""
    pairs: Mapping[str, str] = field(default_factory=dict)
    """Name in the network, and the names in the file of the tensors that its values come from, if they differ."""
    notes: tuple[str, ...] = ()
    """Properties of the file that its tensors do not show and that the network has to have."""


def map_by_name(tensors: Mapping[str, Tensor], network: NetworkNames, timm_model: str | None) -> Mapped:
    """Return the tensors of a file by the names of the network.

    A file that contains every name of the network is not changed. Otherwise, the first of the following that gives
    every name is used, or else the one that gives most names: a prefix is removed; timm's conversion for the
    architecture, with and without a prefix; the names of torchvision.

    Args:
        tensors: The tensors of the file by name.
        network: Names of the network.
        timm_model: Name of the timm architecture, or None.

    Raises:
        UserError: The file contains several networks of this architecture, or was made for patches of another size.
    """
    required = network.required
    if required <= tensors.keys():
        return Mapped(tensors)
    best = Mapped(tensors)
    for each in _candidates(traced(tensors), network, timm_model):
        if _score(each, network) > _score(best, network):
            best = each
        if required <= best.tensors.keys():
            break
    return best if not best.how else _reported(best, tensors, network, timm_model)


def _score(mapped: Mapped, network: NetworkNames) -> tuple[int, int]:
    """Return the number of tensors with a name of the network, and the number of those with the same shape."""
    shared = [name for name in network.required if name in mapped.tensors]
    return len(shared), sum(mapped.tensors[name].shape == network.tensors[name].shape for name in shared)


def _candidates(tensors: dict[str, Tensor], network: NetworkNames, timm_model: str | None) -> Iterator[Mapped]:
    prefix = _prefix_of_network(tensors, network.required)
    if prefix:
        part = _part(tensors, prefix)
        # In an autoencoder of this project, only the names of the encoder have a prefix.
        rest = {name: value for name, value in tensors.items() if name in network.tensors and name not in part.tensors}
        yield Mapped({**part.tensors, **rest}, how=part.how)
    parts = [Mapped(tensors), *(_part(tensors, each) for each in _common_prefixes(tensors))]
    conversion = None if timm_model is None else timm_conversion(timm_model)
    if timm_model is not None and conversion is not None:
        _require_patch_size(tensors, network, timm_model)
        networks = _sizes_of(timm_model, network.module)
        # A visual network that was saved alone lacks the prefix by which timm recognises it.
        alone = Mapped({f"{VISUAL}{name}": value for name, value in tensors.items()})
        for part in (*parts, alone):
            converted = convert_with_timm(part.tensors, conversion, networks)
            if converted is not None:
                step = f"converted by timm ({conversion_name(conversion)})"
                interpolated = "interpolated by timm" if any(map(is_interpolated, converted.values())) else ""
                yield Mapped(converted, how=_how(part.how, step, interpolated))
    for part in parts:
        converted = torchvision_names(part.tensors, network)
        if converted is not None:
            yield Mapped(converted, how=_how(part.how, "names of torchvision replaced"))


def _how(*steps: str) -> str:
    return ", ".join(step for step in steps if step)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> Mapped:
    """Return the tensors with a prefix, without the prefix."""
    part = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    return Mapped(part, how=f"prefix `{prefix}` removed")


def _prefix_of_network(tensors: Mapping[str, Tensor], required: frozenset[str]) -> str:
    """Return the prefix whose removal gives the most names of the network, or an empty text if none gives any.

    Raises:
        UserError: Several prefixes give as many names, and it is not known which network is evaluated.
    """
    counts = Counter[str]()
    for name in tensors:
        parts = name.split(".")
        for i in range(1, min(len(parts), MAX_PARTS + 1)):
            if ".".join(parts[i:]) in required:
                counts[".".join(parts[:i]) + "."] += 1
    if not counts:
        return ""
    most = max(counts.values())
    prefixes = [prefix for prefix, count in counts.items() if count == most]
    if len(prefixes) == 1 or most < len(required):
        return prefixes[0]
    evaluated = [prefix for prefix in prefixes if any(f".{known}" in f".{prefix}" for known in EVALUATED)]
    if len(evaluated) != 1:
        raise UserError(
            f"the file contains several networks of this architecture, with the prefixes {', '.join(prefixes)}. Save "
            "only the tensors of one of them."
        )
    return evaluated[0]


def _common_prefixes(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the prefixes of training programs that names of the file have, one or two deep."""
    one = [prefix for prefix in PREFIXES if any(name.startswith(prefix) for name in tensors)]
    two = [
        first + second
        for first in one
        for second in PREFIXES
        if any(name.startswith(first + second) for name in tensors)
    ]
    return [*one, *two]


def _sizes_of(timm_model: str, module: nn.Module | None) -> tuple[nn.Module, ...]:
    """Return the timm network for images of its default size, and the network itself."""
    with torch.device("meta"):
        default = timm_network(timm_model, 2)
    return (default,) if module is None else (default, module)


def _require_patch_size(tensors: Mapping[str, Tensor], network: NetworkNames, timm_model: str) -> None:
    """Check that the file is for patches of the network's size. timm's functions would interpolate the weights.

    Raises:
        UserError: The file is for patches of another size.
    """
    expected = network.tensors.get("patch_embed.proj.weight")
    if expected is None or expected.ndim != 4:
        return
    kernels = [value.shape for value in tensors.values() if value.ndim == expected.ndim]
    found = {tuple(shape[2:]) for shape in kernels if shape[:2] == expected.shape[:2]}
    if found and tuple(expected.shape[2:]) not in found:
        old, new = (" x ".join(map(str, size)) for size in (min(found), expected.shape[2:]))
        raise UserError(
            f"the weights are for patches of {old} pixels, and {timm_model} has patches of {new} pixels. Set "
            "backbone.model to the architecture of the weights."
        )


def _reported(mapped: Mapped, tensors: Mapping[str, Tensor], network: NetworkNames, timm_model: str | None) -> Mapped:
    """Return the mapping with ordinary tensors, and with the names of the file from which they come."""
    origins = {name: sources_of(value) for name, value in mapped.tensors.items()}
    used = {name for names in origins.values() for name in names}
    shown = {name: names for name, names in origins.items() if names != (name,) and (names or name in network.required)}
    notes = ()
    if tensors.keys() >= _OPENAI and timm_model is not None and "quickgelu" not in timm_model:
        notes = (f"OpenAI trained CLIP with QuickGELU, which {timm_model} does not have. {_QUICK_GELU}",)
    return Mapped(
        {name: untraced(value) for name, value in mapped.tensors.items()},
        tuple(name for name in tensors if name not in used),
        mapped.how,
        {name: " + ".join(names) or "new" for name, names in shown.items()},
        notes,
    )
