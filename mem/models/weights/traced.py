"""Tensors that remember from which tensors of a file they were computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves


class TracedTensor(Tensor):
    """A tensor with the names of the file's tensors that its values come from.

    Functions of PyTorch return traced tensors with the names of all their arguments, so that a conversion of weights by
    another library can be reported tensor by tensor.
    """

    sources: tuple[str, ...]
    """Names of the file's tensors, without repetitions."""
    interpolated: bool
    """Whether the values were interpolated to another size."""

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of PyTorch, and add the names to its results."""
        result = super().__torch_function__(func, types, args, kwargs or {})
        inputs = [each for each in tree_leaves((args, dict(kwargs or {}))) if isinstance(each, TracedTensor)]
        sources = tuple(dict.fromkeys(name for each in inputs for name in sources_of(each)))
        interpolated = getattr(func, "__name__", "") == "interpolate" or any(map(is_interpolated, inputs))
        for each in tree_leaves(result):
            if isinstance(each, TracedTensor) and not hasattr(each, "sources"):
                each.sources, each.interpolated = sources, interpolated
        return result


def traced(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a file as traced tensors with the same memory."""
    result: dict[str, Tensor] = {}
    for name, value in tensors.items():
        each = value.detach().as_subclass(TracedTensor)
        each.sources, each.interpolated = (name,), False
        result[name] = each
    return result


def interpolated_from(tensor: Tensor, source: Tensor) -> Tensor:
    """Return a tensor with the values of a traced tensor in another size."""
    result = tensor.as_subclass(TracedTensor)
    result.sources, result.interpolated = sources_of(source), True
    return result


def sources_of(tensor: Tensor) -> tuple[str, ...]:
    """Return the names of the file's tensors from which a tensor was computed. A new tensor has none."""
    return getattr(tensor, "sources", ())


def is_interpolated(tensor: Tensor) -> bool:
    """Return whether the values of a traced tensor were interpolated."""
    return getattr(tensor, "interpolated", False)


def untraced(tensor: Tensor) -> Tensor:
    """Return a traced tensor as an ordinary tensor with the same memory."""
    return tensor.as_subclass(Tensor)
