"""Record the contrastive losses of official PyTorch code. See README.md in this folder.

python -m tests.objectives.golden.record_contrastive --checkouts FOLDER --out FILE
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from tests.objectives.golden import contrastive_recipe as recipe
from tests.objectives.golden import recipe as shared
from tests.recording import checkouts_and_output, load, without_gpu, write

PACO, NCL = "Parametric-Contrastive-Learning", "NCL"


def main() -> None:
    """Run the official code on the inputs of the recipe, and write one file."""
    checkouts, out = checkouts_and_output(__doc__)
    with (
        without_gpu(),
        mock.patch.object(torch.distributed, "broadcast", lambda *_, **__: None),
        mock.patch.object(torch.distributed, "get_rank", lambda: 0),
    ):
        values = {
            "paco": paco(checkouts / PACO),
            "training": training(checkouts / PACO),
            "ncl": ncl(checkouts / NCL),
        }
    write(out, checkouts, (PACO, NCL), values)


def paco(checkout: Path) -> dict[str, Any]:
    """Record the loss and its gradients with respect to the logits and the queries."""
    loss = paco_loss(checkout, shared.COUNTS)
    labels, samples = torch.tensor(shared.LABELS), len(shared.LABELS)
    logits = torch.from_numpy(shared.logits()).requires_grad_()
    queries = torch.from_numpy(recipe.directions(samples, recipe.WIDTH, frequency=1.9)).requires_grad_()
    keys = torch.from_numpy(recipe.directions(samples, recipe.WIDTH, frequency=2.3))
    features = torch.cat([queries, keys, torch.from_numpy(recipe.queue())])
    value = loss(features, torch.cat([labels, labels, torch.tensor(recipe.QUEUE_LABELS)]), logits)
    gradients = torch.autograd.grad(value, (logits, queries))
    return {"value": float(value.detach()), "logits": gradients[0].tolist(), "queries": gradients[1].tolist()}


def paco_loss(checkout: Path, counts: list[int]) -> nn.Module:
    """Return the official loss."""
    settings = {"alpha": recipe.PACO["sample_weight"], "temperature": recipe.PACO["temperature"]}
    module = load(checkout / "PaCo" / "LT" / "losses.py")
    loss = module.PaCoLoss(**settings, K=recipe.QUEUE, num_classes=len(counts))
    loss.cal_weight_for_classes(counts)
    return loss


class Encoder(nn.Module):
    """A network whose last but one module is hooked by the official code, and whose last one it replaces."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * recipe.SIDE**2, recipe.FEATURES)
        self.fc = nn.Linear(recipe.FEATURES, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.layer(images.flatten(1)))


def training(checkout: Path) -> list[dict[str, Any]]:
    """Train the official model with plain SGD, and record the state after the forward pass of each step."""
    module = load(checkout / "PaCo" / "LT" / "moco" / "builder.py")
    module.concat_all_gather = lambda tensor: tensor
    model = module.MoCo(
        Encoder, recipe.WIDTH, recipe.QUEUE, recipe.MOMENTUM, 1.0, True, recipe.FEATURES, num_classes=recipe.CLASSES
    )
    names = official_names()
    with torch.no_grad():
        for encoder in (model.encoder_q, model.encoder_k):
            for name, value in recipe.weights().items():
                if name in names:
                    encoder.get_parameter(names[name]).copy_(torch.from_numpy(value))
        for kind in ("weight", "bias"):
            model.linear.get_parameter(kind).copy_(torch.from_numpy(recipe.weights()[f"classifier.{kind}"]))
    model.queue = torch.from_numpy(recipe.queue())
    model.queue_l = torch.tensor(recipe.QUEUE_LABELS)
    loss = paco_loss(checkout, recipe.COUNTS)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=recipe.LEARNING_RATE)
    steps = []
    for step, labels in enumerate(recipe.LABELS):
        views = [torch.from_numpy(recipe.images(step, view)) for view in (0, 1)]
        value = loss(*model(*views, torch.tensor(labels)))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        steps.append(
            {
                "value": float(value.detach()),
                "queue": model.queue.tolist(),
                "queue_labels": model.queue_l.tolist(),
                "position": int(model.queue_ptr),
                "key_weights": {name: model.encoder_k.get_parameter(names[name]).tolist() for name in names},
                "weights": {name: model.encoder_q.get_parameter(names[name]).tolist() for name in names}
                | {f"classifier.{kind}": model.linear.get_parameter(kind).tolist() for kind in ("weight", "bias")},
            }
        )
    return steps


def official_names() -> dict[str, str]:
    """Return the names of the parameters of the official encoder by their names in the recipe."""
    layers = {"layer": "layer", "hidden": "fc.0", "out": "fc.3"}
    return {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in layers.items() for kind in ("weight", "bias")}


def ncl(checkout: Path) -> dict[str, Any]:
    """Record the contrastive loss of `multi_network_default_CON` for several experts, and the queues after the step.

    The statements of the loop are run as they are; the losses before them are not.
    """
    tree = ast.parse((checkout / "lib" / "core" / "combiner.py").read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    (function,) = [node for node in functions if node.name == "multi_network_default_CON"]
    (loop,) = [node for node in function.body if isinstance(node, ast.For) and "output_p" in ast.unparse(node.iter)]
    module = load(checkout / "lib" / "net" / "MOCO.py")
    samples, experts = len(shared.LABELS), shared.EXPERTS
    queries = torch.from_numpy(recipe.directions(samples, experts, recipe.WIDTH, frequency=1.9)).requires_grad_()
    keys = torch.from_numpy(recipe.directions(samples, experts, recipe.WIDTH, frequency=2.3))
    queues = [module.MoCo(recipe.WIDTH, 2 * samples, 0.9, recipe.NCL["temperature"]) for _ in range(experts)]
    start = torch.from_numpy(recipe.directions(2 * samples, experts, recipe.WIDTH, frequency=2.9))
    for i, queue in enumerate(queues):
        queue.queue = start[:, i].T.contiguous()

    class Model:
        class module:
            MOCO = queues

    class Combiner:
        distributed = False

    names = {
        "torch": torch,
        "F": torch.nn.functional,
        "self": Combiner,
        "model": Model,
        "loss_CON": 0,
        "output_p": queries.unbind(1),
        "output_k": keys.unbind(1),
    }
    exec(compile(ast.Module([loop], []), "combiner.py", "exec"), names)
    value = names["loss_CON"]
    assert isinstance(value, torch.Tensor)
    (gradient,) = torch.autograd.grad(value, queries)
    return {
        "value": float(value.detach()),
        "queries": gradient.tolist(),
        "queue": torch.stack([queue.queue.T for queue in queues], dim=1).tolist(),
        "position": int(queues[0].queue_ptr),
    }


if __name__ == "__main__":
    main()
