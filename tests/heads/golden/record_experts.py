"""Record values of the official code of RIDE's router and of SADE's test-time aggregation. See README.md here.

python -m tests.heads.golden.record_experts --checkouts FOLDER --out tests/heads/golden/experts.json
"""

from __future__ import annotations

import ast
import contextlib
import io
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tests.recording import checkouts_and_output, load, write

RIDE, SADE = "RIDE-LongTailRecognition", "SADE-AgnosticLT"
EXPERTS, CLASSES, WIDTH, TOP, SAMPLES, HIDDEN = 3, 6, 4, 4, 12, 16
POSITIVE_WEIGHT = 100
OUTPUT_BIAS = -4.0
"""Bias of the router's output layer, for which images use one, two and three experts."""
ROUTER_CASES = {"cosine": 30.0, "linear": None}
"""Scale of the cosine classifiers, or None for linear classifiers."""
SGD = {"lr": 0.5, "weight_decay": 5e-4, "momentum": 0.9, "nesterov": True}
"""Settings of SADE's optimizer. The learning rate is larger than the official ones, so that the weights move."""
BATCHES = 4


def grid(stream: int, *shape: int) -> np.ndarray:
    """Return numbers from -2 to 2 that are exact binary fractions."""
    return np.random.default_rng(stream).integers(-32, 33, shape) / 16


def router_inputs() -> dict[str, np.ndarray]:
    """Return features, labels, classifiers and the weights of the router."""
    return {
        "features": np.abs(grid(1, SAMPLES, EXPERTS, WIDTH)) + 1 / 16,
        "labels": np.arange(SAMPLES) % CLASSES,
        "weight": grid(2, EXPERTS, CLASSES, WIDTH),
        "bias": grid(3, EXPERTS, CLASSES),
        "hidden_weight": grid(29, EXPERTS - 1, HIDDEN, WIDTH),
        "hidden_bias": grid(5, EXPERTS - 1, HIDDEN),
        "output_weight": np.concatenate([grid(6, 1, TOP) / 32, grid(7, 1, HIDDEN)], axis=1),
        "output_bias": np.full(1, OUTPUT_BIAS),
    }


def aggregation_inputs() -> np.ndarray:
    """Return the logits of each batch: (batches, samples, views, experts, classes)."""
    return grid(8, BATCHES, SAMPLES, 2, EXPERTS, CLASSES)


class _Part(nn.Module):
    """The part of the features that belongs to an expert, as a feature map of one pixel."""

    def __init__(self, expert: int) -> None:
        super().__init__()
        self.expert = expert

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the feature map."""
        return features[:, self.expert * WIDTH : (self.expert + 1) * WIDTH, None, None]


def _router(official: Any, scale: float | None) -> Any:
    """Return the official network, in which features replace the images and the convolutions do nothing."""
    block, values = official.BasicBlock, router_inputs()
    network = official.ResNet_s(
        block, [1, 1, 1], EXPERTS, num_classes=CLASSES, layer2_output_dim=WIDTH, layer3_output_dim=WIDTH,
        top_choices_num=TOP, pos_weight=POSITIVE_WEIGHT, use_norm=scale is not None, s=scale or 1,
    ).double()  # fmt: skip
    network.conv1 = network.bn1 = network.layer1 = nn.Identity()
    network.layer2s = nn.ModuleList(nn.Identity() for _ in range(EXPERTS))
    network.layer3s = nn.ModuleList(_Part(e) for e in range(EXPERTS))
    with torch.no_grad():
        for e, layer in enumerate(network.linears):
            weight = torch.from_numpy(values["weight"][e])
            layer.weight.copy_(weight if scale is None else weight.T)
            if scale is None:
                layer.bias.copy_(torch.from_numpy(values["bias"][e]))
        for e, layer in enumerate(network.expert_help_pred_hidden_fcs):
            layer.weight.copy_(torch.from_numpy(values["hidden_weight"][e]))
            layer.bias.copy_(torch.from_numpy(values["hidden_bias"][e]))
        network.expert_help_pred_fc.weight.copy_(torch.from_numpy(values["output_weight"]))
        network.expert_help_pred_fc.bias.copy_(torch.from_numpy(values["output_bias"]))
    return network


def record_router(checkout: Path) -> dict[str, Any]:
    """Return loss, gradients, and the logits and numbers of experts of the prediction, for each case."""
    official = load(checkout / "model" / "ldam_drw_resnets" / "ea_resnet_cifar.py")
    values, cases = router_inputs(), {}
    features = torch.from_numpy(values["features"]).flatten(1)
    for name, scale in ROUTER_CASES.items():
        network = _router(official, scale)
        _, loss = network(features, torch.from_numpy(values["labels"]))
        loss.backward()
        hidden = network.expert_help_pred_hidden_fcs
        with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
            logits, used = network.eval()(features)
        cases[name] = {
            "loss": loss.item(),
            "hidden_weight": [layer.weight.grad.tolist() for layer in hidden],
            "hidden_bias": [layer.bias.grad.tolist() for layer in hidden],
            "output_weight": network.expert_help_pred_fc.weight.grad.tolist(),
            "output_bias": network.expert_help_pred_fc.bias.grad.tolist(),
            "logits": logits.tolist(),
            "experts_used": used.flatten().tolist(),
        }
    return cases


def record_aggregation(checkout: Path) -> dict[str, Any]:
    """Return the similarity, its gradient, and the parameters and rounded weights after an epoch of SGD."""
    source = ast.parse((checkout / "test_training_imagenet.py").read_text())
    wanted = ("AverageMeter", "ProgressMeter", "test_training")
    source.body = [node for node in source.body if getattr(node, "name", None) in wanted]
    names: dict[str, Any] = {"torch": torch, "F": F, "np": np, "tqdm": lambda batches: batches}
    exec(compile(source, "test_training_imagenet.py", "exec"), names)
    batches = [([batch[:, 0], batch[:, 1]], None) for batch in torch.from_numpy(aggregation_inputs())]

    class Network(nn.Module):
        def forward(self, logits: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": logits}

    model = Network()

    def epoch(chosen: list[Any], **settings: Any) -> tuple[torch.Tensor, tuple[float, ...]]:
        weight = nn.Parameter(torch.full((EXPERTS,), 1 / EXPERTS, dtype=torch.float64))
        optimizer = torch.optim.SGD([weight], **settings)
        with mock.patch.object(torch.Tensor, "cuda", lambda tensor: tensor):
            rounded = names["test_training"](chosen, model, weight, optimizer, CLASSES, None, None)
        return weight.detach(), tuple(map(float, rounded))

    step, _ = epoch(batches[:1], lr=1.0)
    scores, rounded = epoch(batches, **SGD)
    return {
        "gradient_of_loss": (torch.full_like(step, 1 / EXPERTS) - step).tolist(),
        "scores": scores.tolist(),
        "rounded_weights": rounded,
    }


def main() -> None:
    """Run the official code on the inputs, in float64, and write one file."""
    checkouts, out = checkouts_and_output(__doc__)
    values = {"router": record_router(checkouts / RIDE), "aggregation": record_aggregation(checkouts / SADE)}
    write(out, checkouts, (RIDE, SADE), values, numpy=np.__version__)


if __name__ == "__main__":
    main()
