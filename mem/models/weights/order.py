"""Map the tensors of a weights file to a network by their order and shapes, where the names differ.

Two implementations of an architecture usually define the layers in the same order. The tensors of their state
dictionaries then correspond one to one. A wrong pair is detected if the shapes differ, if the names say that one tensor
is, for example, a running mean and the other a running variance, or if the name in the file is that of another tensor
of the network. Other layers of the same shape in another order are not detected.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mem.errors import UserError
from mem.models.weights.network_names import NetworkNames
from mem.models.weights.positions import resize_position_table

_ROLES = {
    "weight": "weight",
    "in_proj_weight": "weight",
    "gamma": "weight",
    "kernel": "weight",
    "bias": "bias",
    "in_proj_bias": "bias",
    "beta": "bias",
    "running_mean": "running mean",
    "moving_mean": "running mean",
    "running_var": "running variance",
    "moving_variance": "running variance",
}
"""Meaning of the last part of a name in PyTorch and TensorFlow."""
_ADVICE = (
    "Set backbone.model to the architecture of the file, or save the tensors with the names of the network and remove "
    "initial.keys."
)


def pair_in_order(tensors: Mapping[str, Tensor], network: NetworkNames) -> dict[str, str]:
    """Return the name in the file for each name in the network. The tensors are paired in their order.

    Integer tensors, such as the batch counters of BatchNorm, are left out on both sides. The file contains the
    network's classifier, for any number of classes, or no classifier. Tables of positions can be for another image
    size if `mem.models.weights.positions` can resize them.

    Args:
        tensors: The tensors of the file by name, in the order of the file.
        network: Names and shapes of the network that the tensors are for.

    Raises:
        UserError: The numbers of tensors differ, or the tensors of a pair have different shapes, meanings or, if the
            network has both, names. The message states the position, both names and both shapes.
    """
    found = {name: value for name, value in tensors.items() if value.is_floating_point()}
    sizes = _possible_contents(network)
    expected = next((each for each in sizes if len(each) == len(found)), sizes[0])
    counts = f"The file has {len(found)} tensors with values; the network has {_alternatives(sizes)}."
    pairs = list(zip(expected, found, strict=False))
    for position, (name, source) in enumerate(pairs, start=1):
        reason = _conflict(name, source, found[source], expected[name], network)
        if reason is not None:
            raise UserError(
                f"initial.keys: order is not possible, because tensor {position} does not fit: the file has "
                f"{source} of shape {tuple(found[source].shape)}, and the network has {name} of shape "
                f"{tuple(expected[name].shape)}{reason}. {counts} {_ADVICE}"
            )
    if len(found) != len(expected):
        longer, owner = (found, "file") if len(found) > len(expected) else (expected, "network")
        extra = list(longer)[len(pairs)]
        raise UserError(
            f"initial.keys: order is not possible, because the {owner} has more tensors: the first {len(pairs)} fit, "
            f"and tensor {len(pairs) + 1} of the {owner} is {extra} of shape {tuple(longer[extra].shape)}. "
            f"{counts} {_ADVICE}"
        )
    return dict(pairs)


def _possible_contents(network: NetworkNames) -> list[dict[str, Tensor]]:
    """Return the tensors of a complete file, of one without classifier, and of one without further optional parts."""
    complete = {name: value for name, value in network.tensors.items() if value.is_floating_point()}
    contents = [complete]
    for prefixes in (network.classifiers, (*network.classifiers, *network.optional)):
        part = {name: value for name, value in complete.items() if not name.startswith(prefixes)}
        if len(part) < len(contents[-1]):
            contents.append(part)
    return contents


def _alternatives(contents: list[dict[str, Tensor]]) -> str:
    first, *others = (len(each) for each in contents)
    return f"{first}" + (f" ({' or '.join(map(str, others))} without its classifier)" if others else "")


def _conflict(name: str, source: str, value: Tensor, expected: Tensor, network: NetworkNames) -> str | None:
    """Return the reason why a tensor is not the one with the name `name`, or None if it can be."""
    if source != name and source in network.tensors:
        return f", but {source} is another tensor of the network"
    role, expected_role = (_ROLES.get(each.rpartition(".")[2]) for each in (source, name))
    if role is not None and expected_role is not None and role != expected_role:
        return f", but by their names one is a {role} and the other a {expected_role}"
    if value.shape == expected.shape:
        return None
    if name.startswith(network.classifiers) and value.ndim == expected.ndim:
        return None if value.shape[1:] == expected.shape[1:] else ""
    if network.module is None:
        return ""
    table = torch.empty(value.shape, device="meta")
    resized = resize_position_table(name, table, expected.shape, network.module)
    return None if resized is not None and resized.shape == expected.shape else ""
