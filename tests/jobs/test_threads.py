"""The number of threads of a stage."""

from __future__ import annotations

import os

import pytest
import torch

from mem.cli.main import SPIN_COUNT, main
from mem.distributed import World
from mem.jobs.threads import stage_threads, thread_count

VARIABLES = ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def count(requested: int, cores: set[int], *others: set[int]) -> tuple[int, str | None]:
    return thread_count(requested, cores, [cores, *others])


def test_a_stage_uses_the_threads_of_its_settings():
    for threads in (1, 2, 4):
        assert count(threads, {0, 1, 2, 3}) == (threads, None)


def test_a_stage_uses_at_most_the_cores_on_which_it_may_run():
    assert count(4, {6}) == (1, "this process may use 1 core")
    assert count(4, {3, 5}) == (2, "this process may use 2 cores")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"OMP_NUM_THREADS": "1"}, 1),  # snakemake --cores 1
        ({"OMP_NUM_THREADS": "3"}, 3),  # snakemake --set-threads pretrain=3
        ({"OMP_NUM_THREADS": "3,1"}, 3),
        ({"OMP_NUM_THREADS": "64"}, 4),
        ({"OMP_NUM_THREADS": "0"}, 2),
        ({"OMP_NUM_THREADS": "x"}, 2),
        ({"OMP_NUM_THREADS": ""}, 2),
        ({"SLURM_CPUS_PER_TASK": "1"}, 1),
        ({"SLURM_CPUS_PER_TASK": "4"}, 2),
        ({"OMP_NUM_THREADS": "4", "SLURM_CPUS_PER_TASK": "3"}, 3),
    ],
)
def test_variables_of_snakemake_and_slurm_replace_or_limit_the_threads(monkeypatch, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    threads, reason = count(2, {0, 1, 2, 3})
    assert threads == expected
    assert (reason is None) == (expected == 2)


def test_ranks_share_the_cores_that_several_of_them_may_use():
    node = {0, 1, 2, 3}
    assert count(4, node, node) == (2, "this process may use 4 cores, which up to 2 ranks share")
    assert count(2, node, node) == (2, None)
    assert count(4, {0, 1}, {2, 3}) == (2, "this process may use 2 cores")  # SLURM binds each rank to its own cores
    assert count(4, {0, 1, 2}, {2, 3}) == (2, "this process may use 3 cores, which up to 2 ranks share")
    assert count(2, set(range(3)), set(range(3)), set(range(3)))[0] == 1
    assert count(2, {0}, {0}, {0})[0] == 1  # more ranks than cores


def test_pytorch_uses_the_threads_until_the_stage_ends(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    said: list[str] = []
    before = torch.get_num_threads()
    with stage_threads("finetune", 2, World(), said.append) as threads:
        assert threads == torch.get_num_threads() == 2
    assert torch.get_num_threads() == before
    assert said == []
    with stage_threads("finetune", 8, World(), said.append):
        assert torch.get_num_threads() == 3
    assert said == ["Threads: 3, not 8 as in compute.finetune.threads, because this process may use 3 cores."]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": SPIN_COUNT}),
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
        ({"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "7"}),
    ],
)
def test_waiting_threads_soon_give_up_their_cores_unless_the_user_chose_otherwise(monkeypatch, chosen, expected):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")  # restored after the test
        monkeypatch.delenv(name)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        main(["--help"])
    assert {name: os.environ[name] for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT") if name in os.environ} == expected
