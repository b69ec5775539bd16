"""Print the number of graphs that PyTorch captures in a few training steps of each compiled model, as JSON.

No code is generated for the graphs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from mem.distributed import SINGLE_PROCESS
from mem.models.recompute import recompute_activations
from mem.train.meters import FiniteWatch
from mem.train.optimizers import backbone_optimizer
from mem.train.state import TrainState
from mem.train.step import StepContext, StepOptions, train_step
from tests.train.steps import BATCH, CASES, SIDE, Case, random_batch
from tests.train.training import SGD, recipe


def graphs_of(case: Case, *, recompute: bool) -> int:
    """Return the number of graphs in three steps with two micro-batches each."""
    torch.compiler.reset()
    model, objective = case()
    if recompute:
        recompute_activations(model, "model")
    graphs: list[torch.fx.GraphModule] = []

    def capture(graph: torch.fx.GraphModule, _: object) -> Callable:
        graphs.append(graph)
        return graph.forward

    optimizer = backbone_optimizer([{"params": list(model.parameters())}], recipe(betas=None, **SGD))
    state = TrainState(model.train(), optimizer)
    replica = torch.compile(model, backend=capture)
    context = StepContext(SINGLE_PROCESS, BATCH, StepOptions(micro_batch=6), FiniteWatch())
    for step in range(3):
        train_step(state, replica, random_batch(step, SIDE), objective, 0.05, context)
    return len(graphs)


if __name__ == "__main__":
    counts = {
        f"{name}{', recomputed' * recompute}": graphs_of(case, recompute=recompute)
        for name, case in CASES.items()
        for recompute in (False, True)
    }
    print(json.dumps(counts))
