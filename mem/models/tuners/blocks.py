"""The transformer blocks of a network, and the linear layers in them."""

from __future__ import annotations

from torch import nn

from mem.errors import UserError


def transformer_blocks(network: nn.Module, name: str, tuner: str) -> list[nn.Module]:
    """Return the transformer blocks of a network, in order.

    They are the modules that contain an attention with heads (`attn`) and a perceptron (`mlp`).

    Args:
        network: The network.
        name: Name of the network in error messages.
        tuner: Name of the tuner in error messages.

    Raises:
        UserError: There are none.
    """
    blocks = [
        module
        for module in network.modules()
        if hasattr(getattr(module, "attn", None), "num_heads") and isinstance(getattr(module, "mlp", None), nn.Module)
    ]
    if not blocks:
        raise UserError(
            f"finetune.tuner: `{tuner}` tunes transformer blocks, but {name} has none. Use a vision transformer, or a "
            "tuner for any network: head, bias, last_blocks, last_stage or batch_norm."
        )
    return blocks


def block_width(block: nn.Module, name: str, tuner: str) -> int:
    """Return the dimension of the tokens that a transformer block processes.

    Raises:
        UserError: The block does not begin with a layer norm, so that the dimension is unknown.
    """
    shape = getattr(getattr(block, "norm1", None), "normalized_shape", ())
    if len(shape) != 1:
        raise UserError(
            f"finetune.tuner: `{tuner}` requires transformer blocks that begin with a layer norm, but {name} has "
            f"{type(block).__name__}. Use another tuner, for example bias or last_blocks."
        )
    return int(shape[0])
