"""The DAG under the profile `local`, on this machine."""

from __future__ import annotations

import pytest

from mem.config.load import load_study
from mem.runs.dag import study_runs
from tests.conftest import REPOSITORY
from tests.workflow.conftest import assert_same_training, snakemake

pytestmark = pytest.mark.workflow
MINI = REPOSITORY / "tests" / "mini.yaml"


def test_two_ranks_of_this_machine_learn_what_one_process_does(tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    alone.mkdir(), together.mkdir()
    study = ("--until", "pretrain", "--config", f"study={MINI}")
    snakemake(alone, "--cores", "2", *study)
    local = ("--profile", str(REPOSITORY / "local"), "--submitit-local-ranks", "asked")
    snakemake(together, *local, *study, 'compute={"pretrain": {"tasks_per_node": 2}}')
    run = next(run for run in study_runs(load_study([MINI])) if run.stage == "pretrain").folder
    ranks = sorted(path.name for path in (together / "logs").rglob("pretrain-*.log.ranks/*"))
    assert ranks == ["rank0.txt", "rank1.txt"]
    assert_same_training(run, alone, together)
