"""Compare training steps of several methods: CPU time in alternating rounds, and memory for the backward pass."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Ratio(NamedTuple):
    """Median and range of ratios over rounds."""

    median: float
    lowest: float
    highest: float


def time_ratios(steps: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, Ratio]:
    """Return the time of each step relative to that of the first one in the same round.

    In each round, every function takes one step, in an order that changes from round to round. The first call of each
    function is not measured.

    Args:
        steps: Functions that take a step and return its seconds, by name.
        rounds: Number of rounds.
    """
    names = list(steps)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for step in steps.values():
        step()
    for round_number in range(rounds):
        shift = round_number % len(names)
        for name in names[shift:] + names[:shift]:
            seconds[name].append(steps[name]())
    result: dict[str, Ratio] = {}
    for name in names:
        ratios = [own / first for own, first in zip(seconds[name], seconds[names[0]], strict=True)]
        result[name] = Ratio(statistics.median(ratios), min(ratios), max(ratios))
    return result


def saved_bytes(function: Callable[[], object], kept: Collection[int] = ()) -> int:
    """Return the bytes of the tensors that a function keeps for the backward pass, each counted once.

    Args:
        function: The forward pass and the loss.
        kept: Addresses of storages that are not counted.
    """
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in kept:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    # The result must stay alive: the storage of a tensor that was freed would be counted again under its address.
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    del result
    return sum(sizes.values())
