"""BatchNorm (Ioffe & Szegedy 2015) whose batch size is a setting, independent of ranks and micro-batches.

Samples are normalised in groups of `norm_batch` consecutive samples of the global batch. The running statistics are
updated once per step with the mean of the group statistics. If `norm_batch` equals the global batch size, the result is
the same as with PyTorch's BatchNorm in a single process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from mem.distributed import RankGroup, World
from mem.errors import UserError


class SampleBatchNorm(nn.BatchNorm2d):
    """BatchNorm over groups of consecutive samples of the global batch. The state-dict keys equal those of PyTorch.

    `drop` and `act` are the modules that timm's BatchNormAct2d applies after the norm.
    """

    def __init__(self, norm: nn.BatchNorm2d, norm_batch: int) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self.load_state_dict(nn.BatchNorm2d.state_dict(norm), strict=False)
        self.drop: nn.Module = getattr(norm, "drop", nn.Identity())
        self.act: nn.Module = getattr(norm, "act", nn.Identity())
        self.norm_batch = norm_batch
        self.rank_group: RankGroup | None = None
        """Ranks that share a sample group; None if each group is on a single rank."""
        self.pending: list[Float[Tensor, "2 channels"]] = []
        """Mean and unbiased variance of each sample group in the current forward pass."""
        self.kept: list[Float[Tensor, "2 channels"]] = []
        """The statistics of all forward passes of the current step."""

    def forward(
        self, input: Float[Tensor, "samples channels rows columns"]
    ) -> Float[Tensor, "samples channels rows columns"]:
        """Normalise with group statistics during training and with running statistics during evaluation."""
        if not self.training:
            x = F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        elif self.rank_group is None:
            x = torch.cat([self._normalise_group(group) for group in input.split(self.norm_batch)])
        else:
            x = self._normalise_shared_group(input, self.rank_group)
        return self.act(self.drop(x))

    def _normalise_group(
        self, x: Float[Tensor, "group channels rows columns"]
    ) -> Float[Tensor, "group channels rows columns"]:
        """Normalise a sample group that is entirely on this rank."""
        assert self.running_mean is not None
        statistics = torch.zeros(2, self.num_features, dtype=self.running_mean.dtype, device=x.device)
        out = F.batch_norm(x, statistics[0], statistics[1], self.weight, self.bias, True, 1.0, self.eps)
        self.pending.append(statistics)
        return out

    def _normalise_shared_group(
        self, x: Float[Tensor, "part channels rows columns"], ranks: RankGroup
    ) -> Float[Tensor, "part channels rows columns"]:
        """Normalise this rank's part of a sample group that several ranks share. All parts have the same size."""
        assert self.running_mean is not None
        wide = x.to(self.running_mean.dtype)
        variance, mean = torch.var_mean(wide, dim=(0, 2, 3), correction=0)
        means, variances = ranks.gather(torch.stack([mean, variance])).unbind(1)
        mean = means.mean(dim=0)
        variance = (variances + (means - mean) ** 2).mean(dim=0)
        count = x.numel() // self.num_features * ranks.size
        self.pending.append(torch.stack([mean, variance * count / (count - 1)]).detach())
        scale = (variance + self.eps).rsqrt()
        out = (wide - mean.view(1, -1, 1, 1)) * scale.view(1, -1, 1, 1)
        if self.affine:
            out = out * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return out.to(x.dtype)


def use_sample_batch_norms(model: nn.Module, norm_batch: int | None, name: str) -> None:
    """Replace the model's BatchNorm layers with `SampleBatchNorm`.

    Raises:
        UserError: The network has BatchNorm layers but `norm_batch` is None, the network has no BatchNorm layers but
            `norm_batch` is set, or a layer is of an unsupported kind.
    """
    found = [
        (parent, key, child)
        for parent in model.modules()
        for key, child in parent.named_children()
        if isinstance(child, nn.modules.batchnorm._BatchNorm)
    ]
    if bool(found) != (norm_batch is not None):
        reason = (
            "has BatchNorm; set this to the number of images that share statistics"
            if found
            else "has no BatchNorm; set this to null"
        )
        raise UserError(f"backbone.norm_batch: {name} {reason}")
    for parent, key, child in found:
        if not isinstance(child, nn.BatchNorm2d) or child.momentum is None or not child.track_running_stats:
            raise UserError(f"{name} has an unsupported kind of BatchNorm ({child}), whose batch size cannot be set")
        assert norm_batch is not None
        setattr(parent, key, SampleBatchNorm(child, norm_batch))


def configure_batch_norms(model: nn.Module, world: World, global_batch: int, micro_batch: int | None) -> None:
    """Configure how the sample groups of each `SampleBatchNorm` are distributed over the ranks.

    Raises:
        UserError: A sample group is split between micro-batches or ranks, so a forward pass cannot compute its
            statistics.
    """
    norms = _norms(model)
    if not norms:
        return
    size = norms[0].norm_batch
    local, rest = divmod(global_batch, world.size)
    fits = rest == 0 and global_batch % size == 0
    if local % size == 0:
        fits = fits and (micro_batch is None or micro_batch >= local or micro_batch % size == 0)
        ranks = 1
    else:
        ranks = size // local if local else 0
        fits = fits and size % max(local, 1) == 0 and (micro_batch is None or micro_batch >= local)
    if not fits:
        raise UserError(
            f"BatchNorm shares statistics among {size} consecutive images (backbone.norm_batch), but the batch of "
            f"{global_batch} is divided among {world.size} rank(s) with {global_batch / world.size:g} images each"
            + (f" and micro-batches of {micro_batch}. " if micro_batch else ". ")
            + ("Set compute.finetune.micro_batch to a multiple of norm_batch, or use" if micro_batch else "Use")
            + " a number of ranks for which norm_batch is a multiple or a divisor of the images per rank"
            + (", without micro-batches." if micro_batch else ".")
        )
    group = world.subgroup(ranks) if ranks > 1 else None
    for norm in norms:
        norm.rank_group = group


def keep_batch_norm_statistics(model: nn.Module) -> None:
    """Keep the statistics of a forward pass for the update at the end of the step.

    Call this before the backward pass, which may repeat the forward pass (`mem.models.recompute`), and discard the
    statistics after it. Each forward pass of a compiled model then starts in the same state, and is compiled once.
    """
    for norm in _norms(model):
        norm.kept += norm.pending
        norm.pending.clear()


def update_batch_norm_statistics(model: nn.Module, world: World, skipped: Tensor | None = None) -> None:
    """Update the running statistics from the current step, identically on all ranks.

    Args:
        model: The model with `SampleBatchNorm` layers.
        world: The ranks.
        skipped: Flag on the device. If set, the statistics remain unchanged.
    """
    norms = [norm for norm in _norms(model) if norm.kept]
    if not norms:
        return
    found = world.mean(torch.cat([torch.stack(norm.kept).mean(dim=0) for norm in norms], dim=1))
    with torch.no_grad():
        for norm, (mean, variance) in zip(
            norms, (part.unbind(0) for part in found.split([n.num_features for n in norms], dim=1)), strict=True
        ):
            assert norm.running_mean is not None and norm.running_var is not None and norm.momentum is not None
            for running, new in ((norm.running_mean, mean), (norm.running_var, variance)):
                updated = running * (1 - norm.momentum) + new * norm.momentum
                running.copy_(updated if skipped is None else torch.where(skipped, running, updated))
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked += 1 if skipped is None else (~skipped).long()
            norm.kept.clear()


def micro_batch_multiple(model: nn.Module, local: int) -> int:
    """Return the number that must divide the micro-batch size, given `local` images per step on this rank."""
    norms = _norms(model)
    if not norms:
        return 1
    return norms[0].norm_batch if norms[0].rank_group is None else local


def discard_batch_norm_statistics(model: nn.Module) -> None:
    """Discard the statistics of a forward pass that is not part of a step, or that repeats another one."""
    for norm in _norms(model):
        norm.pending.clear()


@contextmanager
def train_only_batch_norms(model: nn.Module) -> Iterator[None]:
    """Within the context, set BatchNorm to training mode and all other layers to evaluation mode.

    At the end, the complete model is in evaluation mode.
    """
    model.eval()
    for norm in _norms(model):
        norm.train()
    try:
        yield
    finally:
        model.eval()


def running_statistics(model: nn.Module) -> dict[str, Tensor]:
    """Return the buffers of all `SampleBatchNorm` layers, with the names that they have in the model's state dict."""
    return {
        f"{name}.{key}": value
        for name, module in model.named_modules()
        if isinstance(module, SampleBatchNorm)
        for key, value in module.named_buffers(recurse=False)
    }


def _norms(model: nn.Module) -> list[SampleBatchNorm]:
    return [module for module in model.modules() if isinstance(module, SampleBatchNorm)]
