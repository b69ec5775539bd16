"""BatchNorm (Ioffe & Szegedy 2015) over a batch that is a setting, however it lies on ranks and micro-batches.

The statistics of a sample are those of the `norm_batch` consecutive samples of the global batch that it belongs to.
Running statistics move once a step, by the mean of the groups' statistics. With `norm_batch` equal to the global batch
that is PyTorch's BatchNorm in one process.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from mem.distributed import Neighbours, World
from mem.errors import UserError


class SampleBatchNorm(nn.BatchNorm2d):
    """BatchNorm whose groups are counted in samples of the global batch; key names are PyTorch's.

    `drop` and `act` are what timm's BatchNormAct2d does afterwards.
    """

    def __init__(self, norm: nn.BatchNorm2d, norm_batch: int) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self.load_state_dict(nn.BatchNorm2d.state_dict(norm), strict=False)
        self.drop: nn.Module = getattr(norm, "drop", nn.Identity())
        self.act: nn.Module = getattr(norm, "act", nn.Identity())
        self.norm_batch = norm_batch
        self.neighbours: Neighbours | None = None
        """The ranks among which a group of samples lies; None where it lies on one."""
        self.pending: list[Float[Tensor, "2 channels"]] = []
        """Mean and unbiased variance of each group of this step."""

    def forward(
        self, input: Float[Tensor, "samples channels rows columns"]
    ) -> Float[Tensor, "samples channels rows columns"]:
        """Normalised by the groups' statistics in training, by the running ones in evaluation."""
        if not self.training:
            x = F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        elif self.neighbours is None:
            x = torch.cat([self._one(part) for part in input.split(self.norm_batch)])
        else:
            x = self._spread(input, self.neighbours)
        return self.act(self.drop(x))

    def _one(self, x: Float[Tensor, "group channels rows columns"]) -> Float[Tensor, "group channels rows columns"]:
        """A group that is here as a whole."""
        assert self.running_mean is not None
        found = torch.zeros(2, self.num_features, dtype=self.running_mean.dtype, device=x.device)
        out = F.batch_norm(x, found[0], found[1], self.weight, self.bias, True, 1.0, self.eps)
        self.pending.append(found)
        return out

    def _spread(
        self, x: Float[Tensor, "part channels rows columns"], neighbours: Neighbours
    ) -> Float[Tensor, "part channels rows columns"]:
        """A group of which this rank has a part; the other ranks have parts of the same size."""
        assert self.running_mean is not None
        wide = x.to(self.running_mean.dtype)
        variance, mean = torch.var_mean(wide, dim=(0, 2, 3), correction=0)
        means, variances = neighbours.gather(torch.stack([mean, variance])).unbind(1)
        mean = means.mean(dim=0)
        variance = (variances + (means - mean) ** 2).mean(dim=0)
        count = x.numel() // self.num_features * neighbours.size
        self.pending.append(torch.stack([mean, variance * count / (count - 1)]).detach())
        scale = (variance + self.eps).rsqrt()
        out = (wide - mean.view(1, -1, 1, 1)) * scale.view(1, -1, 1, 1)
        if self.affine:
            out = out * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return out.to(x.dtype)


def use_sample_batch_norms(model: nn.Module, norm_batch: int | None, name: str) -> None:
    """Put `SampleBatchNorm` in place of BatchNorm.

    Raises:
        UserError: `norm_batch` is missing although the network has BatchNorm, or given although it has none.
    """
    found = [
        (parent, key, child)
        for parent in model.modules()
        for key, child in parent.named_children()
        if isinstance(child, nn.modules.batchnorm._BatchNorm)
    ]
    if bool(found) != (norm_batch is not None):
        wrong = "has BatchNorm: say over how many images" if found else "has no BatchNorm: leave it at null"
        raise UserError(f"backbone.norm_batch: {name} {wrong}")
    for parent, key, child in found:
        if not isinstance(child, nn.BatchNorm2d) or child.momentum is None or not child.track_running_stats:
            raise UserError(f"{name} has a BatchNorm of an unusual kind ({child}), whose batch cannot be set")
        assert norm_batch is not None
        setattr(parent, key, SampleBatchNorm(child, norm_batch))


def configure_batch_norms(model: nn.Module, world: World, global_batch: int, micro_batch: int | None) -> None:
    """Tell each `SampleBatchNorm` of a model how its groups lie on the ranks.

    Raises:
        UserError: They lie so that their statistics cannot be had in one forward pass.
    """
    norms = _norms(model)
    if not norms:
        return
    size = norms[0].norm_batch
    local, rest = divmod(global_batch, world.size)
    fits = rest == 0 and global_batch % size == 0
    if local % size == 0:
        fits = fits and (micro_batch is None or micro_batch >= local or micro_batch % size == 0)
        span = 1
    else:
        span = size // local if local else 0
        fits = fits and size % max(local, 1) == 0 and (micro_batch is None or micro_batch >= local)
    if not fits:
        raise UserError(
            f"BatchNorm shares statistics among {size} consecutive images (backbone.norm_batch), but the batch of "
            f"{global_batch} is cut into {world.size} rank(s) of {global_batch / world.size:g} images"
            + (f" and micro-batches of {micro_batch}. " if micro_batch else ". ")
            + "Let each micro-batch hold whole groups (compute.finetune.micro_batch a multiple of norm_batch), or let "
            "a group be made of whole ranks without micro-batches; or choose another number of ranks."
        )
    neighbours = world.neighbours(span) if span > 1 else None
    for norm in norms:
        norm.neighbours = neighbours


def update_batch_norm_statistics(model: nn.Module, world: World, skipped: Tensor | None = None) -> None:
    """Move the running statistics by those of the step that has just been computed, alike on all ranks.

    Args:
        model: Holds the norms.
        world: The ranks.
        skipped: A flag on the device; where it is set, the step leaves no trace.
    """
    norms = [norm for norm in _norms(model) if norm.pending]
    if not norms:
        return
    found = world.mean(torch.cat([torch.stack(norm.pending).mean(dim=0) for norm in norms], dim=1))
    with torch.no_grad():
        for norm, (mean, variance) in zip(
            norms, (part.unbind(0) for part in found.split([n.num_features for n in norms], dim=1)), strict=True
        ):
            assert norm.running_mean is not None and norm.running_var is not None and norm.momentum is not None
            for running, new in ((norm.running_mean, mean), (norm.running_var, variance)):
                moved = running * (1 - norm.momentum) + new * norm.momentum
                running.copy_(moved if skipped is None else torch.where(skipped, running, moved))
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked += 1 if skipped is None else (~skipped).long()
            norm.pending.clear()


def norm_granule(model: nn.Module, local: int) -> int:
    """A micro-batch of this rank's `local` images must be a multiple of this number."""
    norms = _norms(model)
    if not norms:
        return 1
    return norms[0].norm_batch if norms[0].neighbours is None else local


def discard_batch_norm_statistics(model: nn.Module) -> None:
    """Forget what a forward pass that belongs to no step has left."""
    for norm in _norms(model):
        norm.pending.clear()


def _norms(model: nn.Module) -> list[SampleBatchNorm]:
    return [module for module in model.modules() if isinstance(module, SampleBatchNorm)]
