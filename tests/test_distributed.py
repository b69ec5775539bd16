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

from mem.distributed import World, single_process, world_from_environment
from mem.distributed.connection import listening_socket
from mem.distributed.variables import RankVariables, shown_rank
from mem.errors import UserError
from tests.beton_files import write_beton
from tests.conftest import REPOSITORY
from tests.distributed_training import OBJECTIVES, TrainingCase
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


ADDRESS = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def set_variables(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    """Set these variables of the ranks, and unset the others."""
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK is 2 and WORLD_SIZE is 2"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'; expected a whole number"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR, MASTER_PORT are not set"),
        ({"WORLD_SIZE": "2", "RANK": "", **ADDRESS}, "WORLD_SIZE is 2, but RANK is not set"),
        ({"WORLD_SIZE": "2", "RANK": "0", **ADDRESS, "MASTER_ADDR": ""}, "MASTER_ADDR is not set"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is 0; expected the number of ranks"),
        ({"WORLD_SIZE": "-1"}, "WORLD_SIZE is -1; expected the number of ranks"),
        ({"RANK": "1"}, "RANK is 1, but WORLD_SIZE is not set. .* unset RANK to run a single process"),
        ({"RANK": "one"}, "RANK is 'one'; expected a whole number"),
        ({"WORLD_SIZE": "1", "RANK": "3"}, "RANK is 3 and WORLD_SIZE is 1; .* unset both"),
        ({"WORLD_SIZE": "2", "RANK": "0", **ADDRESS, "MASTER_PORT": "ssh"}, "MASTER_PORT is 'ssh'"),
        ({"WORLD_SIZE": "2", "RANK": "0", **ADDRESS, "MASTER_PORT": "70000"}, "MASTER_PORT is 70000; expected a port"),
        ({"WORLD_SIZE": "2", "RANK": "0", **ADDRESS, "MASTER_ADDR": "no.such.host.invalid"}, "cannot resolve"),
        ({"WORLD_SIZE": "2", "RANK": "0", **ADDRESS, "LOCAL_RANK": "gpu0"}, "LOCAL_RANK is 'gpu0'"),
        ({"WORLD_SIZE": "2", "RANK": "0", **ADDRESS, "LOCAL_RANK": "5"}, "LOCAL_RANK is 5; expected .* 0 to 1"),
        ({"WORLD_SIZE": "2", "RANK": "0", **ADDRESS, "LOCAL_RANK": "-1"}, "LOCAL_RANK is -1"),
        ({"WORLD_SIZE": "3", "RANK": "0", **ADDRESS, "LOCAL_WORLD_SIZE": "2"}, "LOCAL_WORLD_SIZE is 2 and WORLD_SIZE"),
    ],
)
def test_an_invalid_environment_raises_an_error_with_the_variable(monkeypatch, variables, expected):
    set_variables(monkeypatch, variables)
    with pytest.raises(UserError, match=expected), world_from_environment():
        pass


@pytest.mark.parametrize(
    "variables",
    [
        {"WORLD_SIZE": "", "RANK": "", "LOCAL_RANK": "", "MASTER_PORT": ""},
        {"WORLD_SIZE": " ", "RANK": "0"},
        {"LOCAL_RANK": "gpu0"},
        {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "3", "MASTER_PORT": "x"},
    ],
)
def test_empty_variables_and_those_that_a_single_process_does_not_use_are_ignored(monkeypatch, variables):
    set_variables(monkeypatch, variables)
    with world_from_environment() as world:
        assert (world.rank, world.size, world.local_rank) == (0, 1, 0)


def test_a_stage_that_runs_as_one_process_ignores_the_variables(monkeypatch):
    set_variables(monkeypatch, {"WORLD_SIZE": "2", "RANK": "x", **ADDRESS})
    with single_process() as world:
        assert (world.rank, world.size) == (0, 1)


def test_the_log_file_of_a_rank_is_named_even_if_a_variable_is_invalid(monkeypatch):
    for rank, expected in (("2", 2), ("x", 0), ("", 0), ("-3", 0)):
        set_variables(monkeypatch, {"WORLD_SIZE": "4", "RANK": rank})
        assert shown_rank() == expected
    set_variables(monkeypatch, {"RANK": "2"})
    assert shown_rank() == 0


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
          world.any(world.rank == 1), world.any(False), world.from_main({"from": world.rank}),
          world.from_all(world.rank))
    world.barrier()
"""


@pytest.mark.stage
def test_collective_operations_agree_on_all_ranks():
    outputs = run_ranks(3, "-c", textwrap.dedent(COLLECTIVES))
    assert outputs == ["3 1.0 3.0 True False {'from': 0} [0, 1, 2]\n"] * 3


JOIN = """
import sys
from mem.distributed import world_from_environment
from mem.errors import UserError
try:
    with world_from_environment(lambda message: print(message, flush=True), wait_seconds=float(sys.argv[1])):
        print("connected")
except UserError as error:
    print(error)
"""


def join(rank: int, size: int, port: int, *, address: str = "127.0.0.1", seconds: float = 60) -> subprocess.Popen:
    """Start a process that joins a world and prints its messages."""
    variables = {"WORLD_SIZE": str(size), "RANK": str(rank), "MASTER_ADDR": address, "MASTER_PORT": str(port)}
    return subprocess.Popen(
        [sys.executable, "-c", JOIN, str(seconds)],
        cwd=REPOSITORY,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.stage
def test_ranks_that_wait_name_the_missing_rank_and_the_ranks_that_are_present():
    port = free_port()
    processes = [join(rank, 3, port, seconds=10) for rank in (0, 2)]
    outputs = [process.communicate(timeout=100)[0] for process in processes]
    for rank, output in zip((0, 2), outputs, strict=True):
        assert f"Rank {rank} of 3 waits at 127.0.0.1:{port} for rank 1. Ranks present: 0, 2." in output
        assert "If only one process was started, unset WORLD_SIZE, which is 3." in output
        assert "frame #" not in output  # of torch's C++ stack
    # Rank 2 may lose the connection to rank 0 before it reaches its own time limit.
    assert "The time limit of 10 s is reached." in outputs[0]


@pytest.mark.stage
def test_a_rank_that_waits_for_rank_0_names_the_address():
    port = free_port()
    output = join(1, 2, port, seconds=1).communicate(timeout=100)[0]
    assert f"Rank 1 of 2 waits for rank 0, which does not respond at 127.0.0.1:{port}." in output


@pytest.mark.stage
def test_two_processes_with_the_same_rank_are_reported():
    port = free_port()
    processes = [join(rank, 3, port, seconds=15) for rank in (0, 1, 1)]
    outputs = [process.communicate(timeout=100)[0] for process in processes]
    assert sum(f"Two processes have RANK 1 at 127.0.0.1:{port}." in output for output in outputs) == 1


@pytest.mark.stage
def test_a_port_in_use_and_a_wrong_address_are_reported_at_once():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        output = join(0, 2, port).communicate(timeout=100)[0]
        assert f"Rank 0 cannot listen on MASTER_PORT {port}" in output
        assert "Address already in use" in output
        output = join(1, 2, port).communicate(timeout=100)[0]
        assert f"A program listens at 127.0.0.1:{port}, but it is not rank 0 of this stage." in output
    # 192.0.2.1 is reserved for documentation (RFC 5737): no machine has this address.
    output = join(0, 2, free_port(), address="192.0.2.1").communicate(timeout=100)[0]
    assert "Set MASTER_ADDR to the name or address of this machine" in output


CASES = (
    TrainingCase(1, 5, None),
    TrainingCase(1, 6, 6),
    TrainingCase(2, None, None),
    TrainingCase(2, 4, None),
    TrainingCase(2, None, 6),  # each BatchNorm group is one rank's complete part of the batch
    TrainingCase(4, None, None),
    TrainingCase(4, None, 6),  # a group spans two ranks
    TrainingCase(4, None, 12),  # a group spans all ranks
    *(TrainingCase(2, None, None, objective) for objective in OBJECTIVES if objective != "cross_entropy"),
    TrainingCase(2, None, 6, "paco"),  # the key encoder shuffles the samples between the ranks
    TrainingCase(4, None, 6, "paco"),
    TrainingCase(2, None, 6, "lade_of_experts"),  # BatchNorm in each expert
    TrainingCase(4, None, 6, "lade_of_experts"),
    TrainingCase(2, 3, None, "lora"),
    TrainingCase(2, None, 6, "head"),
    TrainingCase(4, None, 6, "batch_norm"),
)
REFERENCES = {
    **{(norm_batch, "cross_entropy"): TrainingCase(1, None, norm_batch) for norm_batch in (None, 6, 12)},
    **{(None, objective): TrainingCase(1, None, None, objective) for objective in OBJECTIVES},
    **{(6, name): TrainingCase(1, None, 6, name) for name in ("paco", "lade_of_experts", "head", "batch_norm")},
    (None, "lora"): TrainingCase(1, None, None, "lora"),
}
"""Reference cases: a single process without gradient accumulation."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the weights of all cases. All cases with the same number of ranks share the same processes."""
    folder = tmp_path_factory.mktemp("ranks")
    images = np.random.default_rng(0).integers(0, 256, (37, 8, 8, 3), dtype=np.uint8)
    write_beton(folder / "train.beton", list(images), np.sqrt(np.arange(37) % 25).astype(np.int64))
    cases = sorted((*REFERENCES.values(), *CASES), key=lambda case: case.ranks)
    for ranks, group in itertools.groupby(cases, lambda case: case.ranks):
        run_ranks(ranks, "-m", "tests.distributed_training", str(folder), json.dumps(list(group)))
    return folder


@pytest.mark.stage
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_several_ranks_learn_the_same_weights_as_one_process(folder, case):
    expected = torch.load(folder / f"{REFERENCES[case.norm_batch, case.objective].name}.pt", weights_only=True)
    weights = torch.load(folder / f"{case.name}.pt", weights_only=True)
    for kind in ("model", "average"):
        torch.testing.assert_close(
            without_key_biases(weights[kind]), without_key_biases(expected[kind]), rtol=1e-10, atol=1e-10
        )
    name = "backbone.head.weight" if case.norm_batch is None else "backbone.fc.weight"
    if "experts" in OBJECTIVES.get(case.objective, {}):
        name = name.replace("backbone.", "backbone.experts.1.")
    in_model = f"classifier.{name}" if case.objective in ("paco", "ncl") else name
    assert not torch.equal(expected["model"][in_model], expected["average"][name])


@pytest.mark.stage
def test_the_queue_of_paco_contains_the_keys_of_the_last_steps(folder):
    """Ten steps of 12 samples. The queue has 36 entries, and the keys of all ranks are in it in the same order."""
    for case in CASES:
        if case.objective == "paco":
            model = torch.load(folder / f"{case.name}.pt", weights_only=True)["model"]
            assert int(model["queue_position"]) == 10 * 12 % 36
            assert (model["queue_labels"] >= 0).all()
            torch.testing.assert_close(model["queue"].norm(dim=1), torch.ones(36, dtype=torch.float64))


@pytest.mark.parametrize(
    ("address", "local_size", "expected"),
    [("127.0.0.1", 2, "127.0.0.1"), ("127.0.0.1", 1, "0.0.0.0"), ("192.0.2.1", 2, "0.0.0.0")],
)
def test_rank_0_listens_only_at_its_own_address(address, local_size, expected):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with listening_socket(RankVariables(0, 2, 0, local_size, address, port)) as server:
        assert server.getsockname() == (expected, port)
