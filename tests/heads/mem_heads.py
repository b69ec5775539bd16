"""Small MEM heads for tests."""

from __future__ import annotations

import torch

from mem.config import HeadTraining, Mem
from mem.heads.base import Linear
from mem.heads.mem.head import MemHead


def mem_settings(sampler: str = "class_balanced", **changes) -> Mem:
    training = HeadTraining(epochs=1, global_batch=8, optimizer="adamw", lr=1e-3, weight_decay=0, sampler=sampler)
    values = {
        "method": "mem", "partition": "shot", "input": "pooled", "width": 32, "depth": 1, "xi": 20.0, "mu": 0.0,
        "top_k": 2, "reo_weight": 1.0, "fusion_width": 8, "weight": "free", "classifier": "frozen",
        "classifier_from": "ce", "training": training,
    }  # fmt: skip
    return Mem(**{**values, **changes})


def mem_head(classes: int = 7, **changes) -> MemHead:
    """Return a head with three groups for features of width 6. Class k belongs to group k % 3."""
    torch.manual_seed(0)
    groups = torch.arange(classes) % 3
    return MemHead(mem_settings(**changes), Linear(torch.randn(classes, 6), torch.randn(classes)), groups)
