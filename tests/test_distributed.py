"""Several ranks on one machine: real processes that communicate with gloo."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from mem.distributed import World, world_from_environment
from mem.errors import UserError
from tests.beton_files import write_beton
from tests.conftest import REPOSITORY
from tests.distributed_training import TrainingCase
from tests.key_biases import without_key_biases


def test_a_single_process_has_a_world_of_size_one(monkeypatch):
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    with world_from_environment() as world:
        value = torch.tensor([2.0])
        assert (world.size, world.is_main, world.any(True), world.from_main("x")) == (1, True, True, "x")
        assert torch.equal(world.mean(value), value)
        assert torch.equal(world.sum(value), value)


def test_rank_0_is_the_main_rank():
    assert World(0, 4).is_main
    assert not World(3, 4).is_main


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK is 2 and WORLD_SIZE is 2"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'; expected a whole number"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR, MASTER_PORT is not set"),
    ],
)
def test_an_invalid_environment_raises_an_error_with_the_variable(monkeypatch, variables, expected):
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=expected), world_from_environment():
        pass


# --- several processes ------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_ranks(ranks: int, *arguments: str) -> list[str]:
    """Run Python with the given arguments once per rank and return what each rank printed."""
    port = str(free_port())
    shared = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=REPOSITORY,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    outputs = [process.communicate(timeout=400) for process in processes]
    for process, (_, error) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, error
    return [out for out, _ in outputs]


COLLECTIVES = """
import torch
from mem.distributed import world_from_environment
with world_from_environment() as world:
    value = torch.tensor([float(world.rank)])
    print(world.size, world.mean(value).item(), world.sum(value).item(),
          world.any(world.rank == 1), world.any(False), world.from_main({"from": world.rank}))
    world.barrier()
"""


@pytest.mark.stage
def test_collective_operations_agree_on_all_ranks():
    outputs = run_ranks(3, "-c", textwrap.dedent(COLLECTIVES))
    assert outputs == ["3 1.0 3.0 True False {'from': 0}\n"] * 3


CASES = (
    TrainingCase(1, 5, None),
    TrainingCase(1, 6, 6),
    TrainingCase(2, None, None),
    TrainingCase(2, 4, None),
    TrainingCase(2, None, 6),  # each BatchNorm group is one rank's complete part of the batch
    TrainingCase(4, None, None),
    TrainingCase(4, None, 6),  # a group spans two ranks
    TrainingCase(4, None, 12),  # a group spans all ranks
)
REFERENCES = {norm_batch: TrainingCase(1, None, norm_batch) for norm_batch in (None, 6, 12)}
"""Reference cases: a single process without gradient accumulation."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the weights of all cases. All cases with the same number of ranks share the same processes."""
    folder = tmp_path_factory.mktemp("ranks")
    images = np.random.default_rng(0).integers(0, 256, (37, 8, 8, 3), dtype=np.uint8)
    write_beton(folder / "train.beton", list(images), np.arange(37) % 5)
    cases = sorted((*REFERENCES.values(), *CASES), key=lambda case: case.ranks)
    for ranks, group in itertools.groupby(cases, lambda case: case.ranks):
        run_ranks(ranks, "-m", "tests.distributed_training", str(folder), json.dumps(list(group)))
    return folder


@pytest.mark.stage
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_several_ranks_learn_the_same_weights_as_one_process(folder, case):
    expected = torch.load(folder / f"{REFERENCES[case.norm_batch].name}.pt", weights_only=True)
    weights = torch.load(folder / f"{case.name}.pt", weights_only=True)
    for kind in ("model", "average"):
        torch.testing.assert_close(
            without_key_biases(weights[kind]), without_key_biases(expected[kind]), rtol=1e-10, atol=1e-10
        )
    name = "backbone.head.weight" if case.norm_batch is None else "backbone.fc.weight"
    assert not torch.equal(expected["model"][name], expected["average"][name])
